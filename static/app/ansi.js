// Colours of a terminal as spans. Text only ever goes in by textContent, and a class only by
// this list, so nothing that a job prints can become markup.

const STYLES = { 1: "bold", 2: "dim", 3: "italic", 4: "underline" };
const OFF = { 22: ["bold", "dim"], 23: ["italic"], 24: ["underline"] };
const isColour = (n) => (n >= 30 && n <= 37) || (n >= 90 && n <= 97);
const isGround = (n) => (n >= 40 && n <= 47) || n === 100;

// SGR is taken; every other control sequence, OSC (titles, links) too, is left out.
// biome-ignore lint: control characters are what this is about
const SEQUENCE = /\x1b(?:\[([0-9;:]*)[ -/]*([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])/g;
// biome-ignore lint: the rest of C0, but for the tab
const CONTROL = /[\x00-\x08\x0b-\x1f\x7f]/g;

export const plain = () => ({ styles: new Set(), colour: null, ground: null });

function apply(state, codes) {
  const list = codes.split(/[;:]/).map((code) => Number(code || 0));
  for (let at = 0; at < list.length; at += 1) {
    const n = list[at];
    if (n === 0) Object.assign(state, plain());
    else if (n in STYLES) state.styles.add(STYLES[n]);
    else if (n in OFF) for (const style of OFF[n]) state.styles.delete(style);
    else if (isColour(n)) state.colour = n;
    else if (isGround(n)) state.ground = n;
    else if (n === 39) state.colour = null;
    else if (n === 49) state.ground = null;
    else if (n === 38 || n === 48) {
      // 256 colours: the sixteen that have a name; true colour: none of ours
      const index = list[at + 1] === 5 ? list[at + 2] : null;
      const code = index === null ? null : index < 8 ? 30 + index : index < 16 ? 82 + index : null;
      if (n === 38) state.colour = code;
      else state.ground = code && code < 40 ? code + 10 : null;
      at += list[at + 1] === 5 ? 2 : 4;
    }
  }
}

function classesOf({ styles, colour, ground }) {
  const classes = [...styles].map((style) => `oc-sgr-${style}`);
  if (colour) classes.push(`oc-sgr-${colour}`);
  if (ground) classes.push(`oc-sgr-${ground}`);
  return classes.join(" ");
}

// Put one line into `place`, starting from and leaving behind `state`.
export function paint(place, line, state) {
  const put = (text) => {
    const clean = text.replace(CONTROL, "\ufffd");
    if (!clean) return;
    const classes = classesOf(state);
    if (!classes) {
      place.append(clean);
      return;
    }
    const span = document.createElement("span");
    span.className = classes;
    span.textContent = clean;
    place.append(span);
  };
  let from = 0;
  for (const match of line.matchAll(SEQUENCE)) {
    put(line.slice(from, match.index));
    if (match[2] === "m") apply(state, match[1]);
    from = match.index + match[0].length;
  }
  put(line.slice(from));
}
