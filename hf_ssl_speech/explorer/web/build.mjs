// Bundles the page into built/, which travels in the wheel: npm ci && npm run build
import { compress, init } from "@bokuweb/zstd-wasm";
import { build } from "esbuild";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";

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
// The smallest build of the runtime, without WebGPU; Zstandard makes 2.0 MB of its 11, gzip 3.0.
await init();
writeFileSync("built/ort.wasm.zst", compress(readFileSync(`${ORT}ort-wasm-simd-threaded.wasm`), 22));
