// Makes static/vendor/ from the exact packages of package-lock.json.
//
//   npm ci && npm run vendor        two runs give the same bytes
//
// The result is committed, so that nobody needs node to run or to change the product.
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const modules = join(root, "node_modules");
const vendor = join(root, "static", "vendor");

// folder in static/vendor -> [package, licence file (null: ours to supply), files]
const PACKAGES = {
  htmx: ["htmx.org", "LICENSE", ["dist/htmx.min.js"]],
  "htmx-ext-sse": ["htmx-ext-sse", "LICENSE", ["dist/sse.min.js"]],
  idiomorph: ["idiomorph", "LICENSE", ["dist/idiomorph-ext.min.js"]],
  tabler: ["@tabler/core", null, ["dist/css/tabler.min.css"]],
  inter: ["@fontsource-variable/inter", "LICENSE", ["files/inter-latin-wght-normal.woff2"]],
  "jetbrains-mono": [
    "@fontsource-variable/jetbrains-mono",
    "LICENSE",
    ["files/jetbrains-mono-latin-wght-normal.woff2"],
  ],
};

// One sprite of the icons that templates name by {% icon %}.
const ICONS = `
  activity-heartbeat alert-triangle arrow-left arrow-right brand-python braces check chevron-down
  chevron-left chevron-right clock cloud-upload copy database device-floppy dots download eye
  external-link file file-code file-text flame folder git-branch hand-click history home
  info-circle list-details lock logout maximize menu-2 moon package pencil player-pause player-play
  player-stop plus refresh rocket search selector server settings sitemap stack-2 sun
  sun-moon terminal-2 text-wrap trash upload user users variable versions x
`.trim().split(/\s+/);

function packageOf(name) {
  return JSON.parse(readFileSync(join(modules, name, "package.json"), "utf8"));
}

// A dangling sourceMappingURL fails a static storage that rewrites references.
function withoutSourceMap(bytes, name) {
  if (!/\.(js|css)$/.test(name)) return bytes;
  const text = bytes.toString("utf8");
  return Buffer.from(text.replace(/\n?\/[/*]# sourceMappingURL=[^\n*]*(\*\/)?\s*$/, "\n"));
}

function sprite() {
  const symbols = ICONS.map((name) => {
    const svg = readFileSync(join(modules, "@tabler/icons/icons/outline", `${name}.svg`), "utf8");
    const inner = svg
      .slice(svg.indexOf(">") + 1, svg.lastIndexOf("</svg>"))
      .replace(/<path stroke="none" d="M0 0h24v24H0z" fill="none" \/>/, "")
      .replace(/\s*\n\s*/g, "");
    return (
      `<symbol id="${name}" viewBox="0 0 24 24" fill="none" stroke="currentColor" ` +
      `stroke-linecap="round" stroke-linejoin="round">${inner}</symbol>`
    );
  });
  return Buffer.from(
    `<svg xmlns="http://www.w3.org/2000/svg">\n${symbols.join("\n")}\n</svg>\n`,
  );
}

rmSync(vendor, { recursive: true, force: true });
const manifest = {};

function put(folder, name, bytes, { version, license, name: source }) {
  mkdirSync(join(vendor, folder), { recursive: true });
  writeFileSync(join(vendor, folder, name), bytes);
  // Sent instead, to whoever takes it: Tabler is 635 kB plain and 79 kB so. Byte 9 names the
  // system that packed it; 255 says none, so that every machine writes the same.
  if (!name.endsWith(".woff2")) {
    const packed = gzipSync(bytes, { level: 9 });
    packed[9] = 255;
    writeFileSync(join(vendor, folder, `${name}.gz`), packed);
  }
  manifest[`${folder}/${name}`] = {
    package: source,
    version,
    // htmx spells it BSD-0-Clause; htmx-ext-sse names it in its licence file only.
    license: (license ?? "0BSD").replace("BSD-0-Clause", "0BSD"),
    bytes: bytes.length,
    gzip: gzipSync(bytes, { level: 9 }).length,
    sha256: createHash("sha256").update(bytes).digest("hex"),
  };
}

for (const [folder, [name, licence, files]] of Object.entries(PACKAGES)) {
  for (const file of files) {
    const bytes = withoutSourceMap(readFileSync(join(modules, name, file)), file);
    put(folder, file.split("/").at(-1), bytes, packageOf(name));
  }
  const text = licence
    ? join(modules, name, licence)
    : join(root, "scripts/licences", `${name.replace(/^@/, "").replace("/", "-")}.txt`);
  copyFileSync(text, join(vendor, folder, "LICENSE"));
}
put("tabler-icons", "icons.svg", sprite(), packageOf("@tabler/icons"));
copyFileSync(join(modules, "@tabler/icons/LICENSE"), join(vendor, "tabler-icons/LICENSE"));

const sorted = Object.fromEntries(Object.entries(manifest).sort());
writeFileSync(join(vendor, "MANIFEST.json"), `${JSON.stringify(sorted, null, 2)}\n`);
for (const [file, { gzip }] of Object.entries(sorted)) console.log(`${file}  ${gzip} B gzip`);
