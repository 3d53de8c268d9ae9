// The log of one attempt. It starts at the server's offset and follows the stream; each
// event's id is the byte offset behind it, so a lost connection goes on where it stopped.
// Where streams do not get through, it asks every three seconds instead.
import { paint, plain } from "./ansi.js";

const LINE_SHOWN = 20_000; // characters of one line; a job may print 10 MB without an end
const LINES_KEPT = 20_000;
const POLL_MS = 3_000;
const ERROR = /\b(ERROR|FATAL|CRITICAL|Traceback|SEVERE)\b|^(\w+\.)*\w*(Error|Exception)\b/;
const WARNING = /\bWARN(ING)?\b/;

export function mount(host) {
  const view = host.querySelector(".oc-log");
  const list = view.querySelector("ol");
  const live = host.querySelector("[data-live]");
  const follow = host.querySelector("[data-follow]");
  const find = host.querySelector("[data-find]");
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
  let source = null;
  let timer = 0;
  let over = false;
  let watched = false; // it was seen to run

  // --- lines

  function item(text, dropped, state) {
    const line = document.createElement("li");
    const mark = document.createElement("i");
    const words = document.createElement("span");
    if (number) {
      mark.textContent = number;
      line.id = `L${number}`;
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
    if (!frame) frame = requestAnimationFrame(draw);
  }

  function draw() {
    frame = 0;
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
    while (list.childElementCount > LINES_KEPT) list.firstElementChild.remove();
    showAnchor();
    if (following) toEnd();
    const errors = list.querySelectorAll(".oc-line-error").length;
    host.querySelector("[data-errors]").textContent = errors;
    host.querySelector("[data-next-error]").hidden = errors === 0;
  }

  // --- following

  function setFollowing(on) {
    following = on;
    follow?.setAttribute("aria-pressed", String(on));
    if (on) toEnd();
  }

  function toEnd(looks = 8) {
    const before = view.scrollTop;
    view.scrollTop = view.scrollHeight;
    if (looks && view.scrollTop !== before) {
      requestAnimationFrame(() => following && toEnd(looks - 1));
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
    for (const old of list.querySelectorAll(".oc-line-hit")) old.classList.remove("oc-line-hit");
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
    const wanted = find.value.toLowerCase();
    const matches = [...list.children].filter(
      (line) => wanted && line.lastChild.textContent.toLowerCase().includes(wanted),
    );
    find.setAttribute("aria-invalid", String(Boolean(wanted) && matches.length === 0));
    go(after(matches));
  });
  find.addEventListener("input", () => find.removeAttribute("aria-invalid"));
  host.querySelector("[data-wrap]").addEventListener("click", ({ currentTarget }) => {
    const off = view.classList.toggle("oc-log-nowrap");
    currentTarget.setAttribute("aria-pressed", String(!off));
  });
  list.addEventListener("click", ({ target }) => {
    if (target.localName !== "i" || !target.textContent) return;
    history.replaceState(history.state, "", `#L${target.textContent}`);
    go(target.parentElement);
  });

  let anchor = location.hash.match(/^#L\d+$/) ? location.hash.slice(1) : "";
  function showAnchor() {
    const line = anchor && list.querySelector(`#${anchor}`);
    if (!line) return;
    anchor = "";
    go(line);
  }

  // Whoever opens the log of a failed node wants to see why.
  function showLastError() {
    const last = [...list.querySelectorAll(".oc-line-error")].at(-1);
    if (!last || list.querySelector(".oc-line-hit")) return;
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

  if (offset > 0) list.append(notice("The lines before are in the download."));
  listen();
  return () => {
    over = true;
    source?.close();
    clearInterval(timer);
    cancelAnimationFrame(frame);
    size.disconnect();
  };
}
