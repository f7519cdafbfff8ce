// The shipped models lie beside the page, so that it needs no server but the one it came from.

import { cpSync, existsSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const from = fileURLToPath(new URL('../../models', import.meta.url));
const to = fileURLToPath(new URL('../public/models', import.meta.url));
if (!existsSync(from)) {
  console.error(`expected the package's models in ${from}, found nothing: run "npm run build" in the folder of the package first`);
  process.exit(1);
}
rmSync(to, { recursive: true, force: true });
cpSync(from, to, { recursive: true });
