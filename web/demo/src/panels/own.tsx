import { useEffect, useState } from 'preact/hooks';
import { cancelLoad, ensureModel, unload } from '../engine';
import { count } from '../format';
import { type State, store } from '../state';

/** Every browser has it, no declaration of elements does. */
const FOLDER = { webkitdirectory: true };

/** A model of one's own: the files of a folder, an archive of it, or a name on a Hub. */
export function OwnModel({ state }: { state: State }) {
  const { source, files, hub } = state;
  const named = source === 'files' ? '' : source;
  const [name, setName] = useState(named);
  useEffect(() => setName(named), [named]);
  const take = (event: Event) => {
    const picked = [...((event.target as HTMLInputElement).files ?? [])];
    if (picked.length === 0) return;
    cancelLoad();
    void unload();
    store.set({ source: 'files', files: picked, loadProblem: undefined });
    void ensureModel();
  };
  const fetchIt = (event: Event) => {
    event.preventDefault();
    cancelLoad();
    void unload();
    const text = name.trim();
    store.set({ source: /^[a-z]+:/.test(text) ? text : `hf:${text}`, loadProblem: undefined });
    void ensureModel();
  };
  return (
    <div class="own">
      <div class="files">
        <label class="button">
          Choose a folder
          <input class="hidden" type="file" {...FOLDER} onChange={take} aria-label="Choose a model's folder" />
        </label>
        <label class="button">
          Choose files or a .tar.gz
          <input class="hidden" type="file" multiple onChange={take} aria-label="Choose a model's files, or a tar archive of them" />
        </label>
        <p class="note">
          {files.length === 0
            ? 'They stay on this machine.'
            : `${count(files.length, 'file')}: ${files
                .slice(0, 4)
                .map((file) => file.name)
                .join(', ')}${files.length > 4 ? ', …' : ''}`}
        </p>
      </div>
      <form onSubmit={fetchIt}>
        <label class="field">
          <span>Name on a Hub, or a folder’s address</span>
          <input
            type="text"
            placeholder="hf:owner/repo@revision"
            value={name}
            onInput={(event) => setName(event.currentTarget.value)}
            spellcheck={false}
            autocapitalize="off"
          />
        </label>
        <label class="field">
          <span>The Hub’s address</span>
          <input
            type="url"
            placeholder="https://…"
            value={hub}
            required={!/^https?:/.test(name.trim())}
            onInput={(event) => store.set({ hub: event.currentTarget.value })}
            spellcheck={false}
          />
        </label>
        <button type="submit" disabled={name.trim() === ''}>
          Fetch it
        </button>
      </form>
    </div>
  );
}
