import { defineConfig, type Plugin } from "vite";
import { catalogueFaults } from "./src/i18n/parity.ts";

/** Stops the build when the two languages do not say the same things. */
function parity(): Plugin {
  return {
    name: "fust-parity",
    buildStart() {
      const faults = catalogueFaults();
      if (faults.length > 0) this.error(`The two catalogues differ:\n  ${faults.join("\n  ")}`);
    },
  };
}

export default defineConfig({
  // Relative addresses: the server rewrites <base href>, so one build serves any sub-path.
  base: "./",
  plugins: [parity()],
  build: {
    outDir: process.env["FUST_UI_OUT"] ?? "../src/fust/app/web",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // the content security policy refuses data: addresses
    modulePreload: { polyfill: false }, // the polyfill would be an inline script
    reportCompressedSize: true,
  },
});
