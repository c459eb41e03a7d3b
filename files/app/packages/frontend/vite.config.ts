import { gzipSync } from "node:zlib";
import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";

/** Write a .gz beside every text file, so that nginx compresses nothing at run time. */
const gzip = (): Plugin => ({
  name: "gzip",
  apply: "build",
  generateBundle(_options, bundle) {
    for (const [name, file] of Object.entries(bundle)) {
      const source = file.type === "chunk" ? file.code : file.source;
      if (/\.(js|css|html|svg|json)$/.test(name)) {
        this.emitFile({ type: "asset", fileName: `${name}.gz`, source: gzipSync(source, { level: 9 }) });
      }
    }
  },
});

export default defineConfig({
  plugins: [react(), gzip()],
  cacheDir: "/tmp/vite",
  server: {
    host: "0.0.0.0",
    port: 5173,
    strictPort: true,
    // Only the frontend's nginx reaches it, under whatever name the person typed.
    allowedHosts: true,
  },
});
