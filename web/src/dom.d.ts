/** Read-only handles, which do not exclude each other, are newer than these declarations. */
interface FileSystemFileHandle {
  createSyncAccessHandle(options: { mode: string }): Promise<FileSystemSyncAccessHandle>;
}
