// The log of one attempt. It starts at the server's offset and follows the stream; each
// event's id is the byte offset behind it, so a lost connection goes on where it stopped.
// Where streams do not get through, it asks every three seconds instead.
// A long log is not all here: the server searches it, and gives the lines around one of them.
import { paint, plain } from "./ansi.js";

const LINE_SHOWN = 20_000; // characters of one line; a job may print 10 MB without an end
const LINES_KEPT = 20_000;
const POLL_MS = 3_000;
const HITS_SHOWN = 100; // at a time
const ERROR = /\b(ERROR|FATAL|CRITICAL|Traceback|SEVERE)\b|^(\w+\.)*\w*(Error|Exception)\b/;
const WARNING = /\bWARN(ING)?\b/;

export function mount(host) {
  const view = host.querySelector(".oc-log");
  const list = view.querySelector("ol");
  const live = host.querySelector("[data-live]");
  const follow = host.querySelector("[data-follow]");
  const find = host.querySelector("[data-find]");
  const hits = host.querySelector("[data-hits]");
  const { stream, chunk } = host.dataset;

  let offset = Number(host.dataset.from);
  let number = Number(host.dataset.line); // of the next line; 0: not known
  let style = plain();
  let rest = ""; // what came behind the last line end
  let cut = 0; // characters of `rest` that are not shown
  let open = null; // the <li> of `rest`
  let following = true;
  let waiting = [];
  let frame = 0;
  let timeout = 0;
  let drawn = 0; // when last, and how long it took
  let cost = 0;
  let source = null;
  let timer = 0;
  let over = false;
  let watched = false; // it was seen to run
  let isWhole = offset === 0; // every line so far is in `list`
  const apart = document.createElement("ol"); // lines from elsewhere in the log, in its place
  apart.hidden = true;
  view.append(apart);

  // --- lines

  function item(text, dropped, state, its = number) {
    const line = document.createElement("li");
    const mark = document.createElement("i");
    const words = document.createElement("span");
    if (its) {
      mark.textContent = its;
      line.dataset.line = its;
    }
    const last = text.slice(text.lastIndexOf("\r") + 1) || text; // a progress bar's last word
    paint(words, last, state);
    if (ERROR.test(words.textContent)) line.className = "oc-line-error";
    else if (WARNING.test(words.textContent)) line.className = "oc-line-warn";
    if (dropped) {
      const more = document.createElement("a");
      more.className = "oc-link";
      more.href = host.dataset.raw;
      more.textContent = ` … ${dropped.toLocaleString("en")} more characters in the download`;
      words.append(more);
    }
    line.append(mark, words);
    return line;
  }

  function copyOf(state) {
    return { ...state, styles: new Set(state.styles) };
  }

  function notice(text) {
    const line = document.createElement("li");
    line.className = "oc-line-notice";
    line.append(document.createElement("i"), text);
    return line;
  }

  function take(text) {
    const pieces = text.split("\n");
    pieces.forEach((piece, at) => {
      const room = Math.max(LINE_SHOWN - rest.length, 0);
      rest += piece.slice(0, room);
      cut += Math.max(piece.length - room, 0);
      if (at === pieces.length - 1) return;
      waiting.push([rest.replace(/\r$/, ""), cut]);
      rest = "";
      cut = 0;
    });
    schedule();
  }

  // The browser needs its share between two drawings, most of all where a job prints fast.
  function schedule() {
    if (frame || timeout) return;
    const pause = Math.max(drawn + 2 * cost - performance.now(), 0);
    timeout = setTimeout(() => {
      timeout = 0;
      frame = requestAnimationFrame(draw);
    }, pause);
  }

  function draw() {
    const began = performance.now();
    frame = 0;
    const surplus = waiting.length - LINES_KEPT; // would go again at once
    if (surplus > 0) {
      waiting.splice(0, surplus);
      if (number) number += surplus;
      isWhole = false;
    }
    const lines = document.createDocumentFragment();
    for (const [text, dropped] of waiting) {
      lines.append(item(text, dropped, style));
      if (number) number += 1;
    }
    waiting = [];
    open?.remove();
    open = rest || cut ? item(rest, cut, copyOf(style)) : null;
    if (open) lines.append(open);
    list.append(lines);
    // Counted once: the browser counts anew after each change.
    for (let over = list.childElementCount - LINES_KEPT; over > 0; over -= 1) {
      list.firstElementChild.remove();
      isWhole = false;
    }
    showAnchor();
    if (following) toEnd();
    const errors = list.querySelectorAll(".oc-line-error").length;
    host.querySelector("[data-errors]").textContent = errors;
    host.querySelector("[data-next-error]").hidden = errors === 0;
    drawn = performance.now();
    cost = drawn - began;
  }

  // --- following

  function setFollowing(on) {
    if (on && !apart.hidden) leave();
    following = on;
    follow?.setAttribute("aria-pressed", String(on));
    if (on) toEnd();
  }

  let looking = 0; // one look at a time, whoever asks for it
  function toEnd(looks = 8) {
    cancelAnimationFrame(looking);
    const before = view.scrollTop;
    view.scrollTop = view.scrollHeight;
    if (looks && view.scrollTop !== before) {
      looking = requestAnimationFrame(() => following && toEnd(looks - 1));
    }
  }

  // The panel gets lower when the page says why a run failed, the list higher when lines that
  // come into view are measured.
  const size = new ResizeObserver(() => following && toEnd());
  size.observe(view);
  size.observe(list);

  // Heights that were guessed and then measured move the view as well, so that only what comes
  // right after a person's hand counts as theirs.
  let touched = 0;
  for (const sign of ["wheel", "touchmove", "pointerdown", "pointermove", "keydown"]) {
    view.addEventListener(sign, (event) => {
      if (sign !== "pointermove" || event.buttons) touched = event.timeStamp;
    }, { passive: true });
  }
  view.addEventListener("scroll", (event) => {
    if (!apart.hidden) return;
    const atEnd = view.scrollHeight - view.scrollTop - view.clientHeight < 24;
    const byHand = event.timeStamp - touched < 1_000;
    if (byHand && following !== atEnd) setFollowing(atEnd);
  });
  follow?.addEventListener("click", () => setFollowing(!following));

  // --- find, next error, line links

  // Only the log scrolls, not the page around it. Lines that were never in view have but a
  // guessed height, so that each look may correct the one before.
  function show(line, looks = 8) {
    const { top } = line.getBoundingClientRect();
    const off = top - view.getBoundingClientRect().top - view.clientHeight / 2;
    view.scrollTop += off;
    if (looks && Math.abs(off) > 2) requestAnimationFrame(() => show(line, looks - 1));
  }

  function go(line) {
    if (!line) return;
    setFollowing(false);
    for (const old of view.querySelectorAll(".oc-line-hit")) old.classList.remove("oc-line-hit");
    line.classList.add("oc-line-hit");
    show(line);
  }

  function after(matches) {
    const at = matches.findIndex((line) => line.classList.contains("oc-line-hit"));
    return matches[(at + 1) % matches.length];
  }

  host.querySelector("[data-next-error]").addEventListener("click", () => {
    go(after([...list.querySelectorAll(".oc-line-error")]));
  });
  find.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    if (!isWhole) {
      search(find.value);
      return;
    }
    const wanted = find.value.toLowerCase();
    const matches = [...list.children].filter(
      (line) => wanted && line.lastChild.textContent.toLowerCase().includes(wanted),
    );
    find.setAttribute("aria-invalid", String(Boolean(wanted) && matches.length === 0));
    go(after(matches));
  });
  find.addEventListener("input", () => {
    find.removeAttribute("aria-invalid");
    if (!find.value) hits.hidden = true;
  });
  host.querySelector("[data-wrap]").addEventListener("click", ({ currentTarget }) => {
    const off = view.classList.toggle("oc-log-nowrap");
    currentTarget.setAttribute("aria-pressed", String(!off));
  });
  view.addEventListener("click", ({ target }) => {
    if (target.localName !== "i" || !target.textContent) return;
    history.replaceState(history.state, "", `#L${target.textContent}`);
    go(target.parentElement);
  });

  let anchor = Number(location.hash.match(/^#L(\d+)$/)?.[1] ?? 0);
  function showAnchor() {
    const line = anchor && list.querySelector(`[data-line="${anchor}"]`);
    if (!line) return;
    anchor = 0;
    go(line);
  }

  // --- what is not here

  async function ask(address) {
    const answer = await fetch(address);
    const data = await answer.json();
    if (!answer.ok) throw new Error(data.error);
    return data;
  }

  function leave() {
    apart.hidden = true;
    list.hidden = false;
  }

  function button(words, act, look = "oc-btn") {
    const made = document.createElement("button");
    made.type = "button";
    made.className = look;
    made.textContent = words;
    made.addEventListener("click", act);
    return made;
  }

  const goTo = host.querySelector("[data-go-to]");

  async function goToLine(wanted) {
    const here = (apart.hidden ? list : apart).querySelector(`[data-line="${wanted}"]`);
    if (here) {
      go(here);
      return;
    }
    let found;
    try {
      found = await ask(`${host.dataset.lines}&line=${wanted}`);
    } catch {
      goTo.setAttribute("aria-invalid", "true");
      return;
    }
    const last = found.lines.at(-1)?.number ?? 0;
    if (last < wanted) {
      goTo.setAttribute("aria-invalid", "true");
      goTo.title = last ? `The last line is ${last}` : "The log has no such line";
      return;
    }
    const first = found.lines[0].number;
    const lines = document.createDocumentFragment();
    const before = notice("");
    if (first > 1) before.append(button("Earlier lines", () => goToLine(first - 1)));
    before.append(button("Back to the end", () => setFollowing(true)));
    lines.append(before);
    let previous = first - 1;
    for (const line of found.lines) {
      if (line.number > previous + 1) {
        lines.append(notice("Lines were left out here: the log outgrew its limit."));
      }
      previous = line.number;
      lines.append(item(line.text, line.cut, plain(), line.number));
    }
    if (found.next) {
      const behind = notice("");
      behind.append(button("Later lines", () => goToLine(last + 1)));
      lines.append(behind);
    }
    apart.replaceChildren(lines);
    list.hidden = true;
    apart.hidden = false;
    go(apart.querySelector(`[data-line="${wanted}"]`) ?? apart.querySelector("[data-line]"));
  }

  goTo.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    const wanted = goTo.value.replace(/[\s,]/g, "");
    if (/^[1-9]\d{0,15}$/.test(wanted)) goToLine(Number(wanted));
    else goTo.setAttribute("aria-invalid", "true");
  });
  goTo.addEventListener("input", () => goTo.removeAttribute("aria-invalid"));

  let searched = 0; // which search is the newest
  async function search(text, start = 0) {
    const mine = (searched += 1);
    if (!text) return;
    const found = document.createElement("ol");
    const said = document.createElement("p");
    said.textContent = "Searching…";
    hits.replaceChildren(said, found);
    hits.hidden = false;
    let next = start;
    try {
      while (next !== null && found.childElementCount < HITS_SHOWN) {
        const query = `&q=${encodeURIComponent(text)}&start=${next}`;
        const data = await ask(host.dataset.search + query);
        if (mine !== searched) return;
        for (const { number: its, text: words } of data.lines) {
          const hit = document.createElement("li");
          const go = button("", () => its && goToLine(its), "");
          const mark = document.createElement("i");
          const shown = document.createElement("span");
          mark.textContent = its ?? "";
          shown.textContent = words;
          go.append(mark, shown);
          hit.append(go);
          found.append(hit);
        }
        next = data.next;
      }
    } catch (error) {
      said.textContent = `The search did not work: ${error.message}`;
      return;
    }
    const count = found.childElementCount;
    find.setAttribute("aria-invalid", String(count === 0));
    said.textContent = count ? `${count} line${count === 1 ? "" : "s"}` : "In no line of the log.";
    if (next !== null) {
      said.textContent = `The first ${count} from here on.`;
      said.append(button("Search on", () => search(text, next)));
    }
    said.append(button("Close", () => { hits.hidden = true; }));
  }

  // Whoever opens the log of a failed node wants to see why.
  function showLastError() {
    const last = [...list.querySelectorAll(".oc-line-error")].at(-1);
    if (!last || view.querySelector(".oc-line-hit")) return;
    setFollowing(false);
    show(last);
  }

  // --- where the lines come from

  function say(text, look = "") {
    live.className = `oc-live ${look}`;
    live.textContent = text;
  }

  function end() {
    over = true;
    source?.close();
    clearInterval(timer);
    say("Complete");
    if (follow) follow.hidden = true;
    if (!watched) requestAnimationFrame(showLastError);
    if (!list.childElementCount && !waiting.length && !rest) {
      list.append(notice("It printed nothing."));
    }
  }

  function got({ from, to, text }) {
    if (to <= offset) return; // seen before the connection was lost
    if (from !== offset) take(`\n`); // cannot happen but for a log whose middle was left out
    offset = to;
    take(text);
  }

  async function poll() {
    if (document.hidden) return;
    try {
      const answer = await fetch(`${chunk}&from=${offset}`);
      if (!answer.ok) throw new Error(answer.status);
      const data = await answer.json();
      got(data);
      if (data.ended) end();
      else say("Live, every 3 s", "oc-live-on");
    } catch {
      say(`Not reachable since ${stale()}`, "oc-live-lost");
    }
  }

  let lostAt = null;
  function stale() {
    lostAt ??= new Date();
    return lostAt.toTimeString().slice(0, 8);
  }

  function listen() {
    source = new EventSource(`${stream}&from=${offset}`);
    source.addEventListener("open", () => {
      lostAt = null;
      say("Live", "oc-live-on");
    });
    source.addEventListener("log", ({ data }) => got(JSON.parse(data)));
    source.addEventListener("state", () => {
      watched = true;
      document.body.dispatchEvent(new Event("oc:state"));
    });
    source.addEventListener("end", () => {
      end();
      document.body.dispatchEvent(new Event("oc:state"));
    });
    source.addEventListener("error", () => {
      if (over) return;
      if (source.readyState === EventSource.CLOSED && !timer) {
        timer = setInterval(poll, POLL_MS);
        poll();
      } else {
        say(`Reconnecting since ${stale()}`, "oc-live-lost");
      }
    });
  }

  if (offset > 0) {
    list.append(notice("The lines before are not shown: search them, or go to one by its number."));
    if (anchor && (!number || anchor < number)) {
      goToLine(anchor);
      anchor = 0;
    }
  }
  listen();
  return () => {
    over = true;
    source?.close();
    clearInterval(timer);
    clearTimeout(timeout);
    cancelAnimationFrame(frame);
    size.disconnect();
  };
}
