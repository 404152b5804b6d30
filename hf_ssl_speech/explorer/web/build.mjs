// Bundles the page into built/, which travels in the wheel: npm ci && npm run build
import { build } from "esbuild";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const ORT = "node_modules/onnxruntime-web/dist/";
mkdirSync("built", { recursive: true });
await build({
  entryPoints: ["src/page.js"],
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  outfile: "built/page.js",
  legalComments: "linked",
});
for (const name of ["index.html", "page.css"]) copyFileSync(`src/${name}`, `built/${name}`);
copyFileSync(`${ORT}ort-wasm-simd-threaded.mjs`, "built/ort.mjs");
// The smallest build of the runtime, without WebGPU; compressed, it is a quarter of its 11 MB.
writeFileSync("built/ort.wasm.gz", gzipSync(readFileSync(`${ORT}ort-wasm-simd-threaded.wasm`), { level: 9 }));
