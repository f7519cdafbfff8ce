import { useStore } from './store';
import { store } from './state';
import { Prompt } from './panels/prompt';
import { Status } from './panels/status';
import { Strip } from './panels/strip';

export function App() {
  const state = useStore(store);
  return (
    <>
      <header class="top">
        <h1>refrain</h1>
      </header>
      <main>
        <div class="controls">
          <Status state={state} />
          <Prompt state={state} />
        </div>
        <div class="results">
          <Strip state={state} />
        </div>
      </main>
    </>
  );
}
