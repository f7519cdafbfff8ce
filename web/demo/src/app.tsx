import { Compare } from './panels/compare';
import { Inspector } from './panels/inspector';
import { Ladder } from './panels/ladder';
import { LoopMap } from './panels/map';
import { Prompt } from './panels/prompt';
import { Status } from './panels/status';
import { Strip } from './panels/strip';
import { Foot, Top } from './panels/top';
import { Tour } from './panels/tour';
import { store } from './state';
import { useStore } from './store';

export function App() {
  const state = useStore(store);
  return (
    <>
      <Top state={state} />
      <main>
        <Status state={state} />
        <div class="controls">
          <Prompt state={state} />
        </div>
        <div class="results">
          <Strip state={state} />
          <Inspector state={state} />
          <LoopMap state={state} />
          <Ladder state={state} />
          <Compare state={state} />
        </div>
      </main>
      <Tour state={state} />
      <Foot />
    </>
  );
}
