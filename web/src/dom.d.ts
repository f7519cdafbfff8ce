interface FileSystemFileHandle {
  createSyncAccessHandle(options: { mode: string }): Promise<FileSystemSyncAccessHandle>;
}
