// Renders the conversation while answers stream.

import { announce, byId, counted, count, element, problem, reducedMotion } from "./dom.js";
import { runs } from "./text.js";
import { asksLength, label, pieces } from "./times.js";

const NEAR = 120; // pixels from the end within which the list scrolls with new text

const COPIED = 2000; // milliseconds that "Copied" is shown

export class Turns {
  constructor(conversation, player, { onRemove }) {
    Object.assign(this, { conversation, player, onRemove });
    this.list = byId("turns");
    this.end = byId("end");
    this.drawn = new Map();
    conversation.addEventListener("change", ({ detail: turn }) => this.#draw(turn));
  }

  /** Render new turns, and a turn's changes. */
  #draw(turn) {
    const follow = this.#nearEnd();
    const isNew = turn !== null && this.list.lastChild !== this.drawn.get(turn)?.item;
    this.#arrange();
    if (turn === null) return;
    this.#fill(turn, this.drawn.get(turn));
    if (isNew || follow) {
      this.end.scrollIntoView({ block: "end", behavior: isNew && !reducedMotion() ? "smooth" : "auto" });
    }
    if (isNew) announce("Waiting for the answer.");
    else if (!turn.running) announce(turn.error ? "" : `${turn.state === "stopped" ? "Stopped. " : ""}${turn.text}`);
  }

  /** Make the list match the conversation's turns and their order. */
  #arrange() {
    const { turns } = this.conversation;
    for (const [turn, { item }] of this.drawn) {
      if (turns.includes(turn)) continue;
      item.remove();
      this.drawn.delete(turn);
    }
    turns.forEach((turn, place) => {
      if (!this.drawn.has(turn)) {
        this.drawn.set(turn, this.#turn(turn));
        this.#fill(turn, this.drawn.get(turn));
      }
      const { item } = this.drawn.get(turn);
      const there = this.list.children[place] ?? null;
      if (there !== item) this.list.insertBefore(item, there);
    });
  }

  #turn(turn) {
    const about = element("div", { className: "abouts" });
    const question = element(
      "div",
      { className: "question" },
      element("h3", { className: "unseen", textContent: "You" }),
      about,
      element("p", { textContent: turn.question }),
    );
    const text = element("p", { className: "text" });
    const facts = element("p", { className: "facts" });
    const copy = element("button", { type: "button", className: "plain copy", textContent: "Copy" });
    copy.setAttribute("aria-label", "Copy the answer");
    copy.addEventListener("click", () => copyText(turn.text, text, copy));
    const trouble = element("div");
    const answer = element(
      "div",
      { className: "answer" },
      element("h3", { className: "unseen", textContent: "The model" }),
      text,
      trouble,
      element("div", { className: "foot" }, facts, copy),
    );
    return { item: element("li", {}, question, answer), about, answer, text, facts, copy, trouble, pieces: [] };
  }

  #fill(turn, parts) {
    parts.answer.classList.toggle("running", turn.running);
    parts.answer.classList.toggle("waiting", turn.running && turn.text === "");
    const names = turn.media.map((medium) => element("span", { className: "about", textContent: medium.name }));
    parts.about.replaceChildren(...names);
    this.#write(parts, turn);
    parts.copy.hidden = turn.running || turn.text === "";
    parts.facts.textContent = turn.running ? "" : facts(turn);
    const again = () => this.conversation.running || this.conversation.retry(turn);
    const remove = () => {
      this.conversation.remove(turn);
      this.onRemove();
    };
    const shown = turn.error ? [problem(turn.error.message, again, turn.error.retryAfter, remove)] : [];
    parts.trouble.replaceChildren(...shown);
  }

  /** Render a text with its times as buttons; keep elements that are unchanged, so that they keep the focus. */
  #write(parts, { question, text }) {
    const duration = asksLength(question) ? -1 : (this.player.subject?.duration ?? -1);
    const styled = ({ text: run, style }) => pieces(run, duration).map((piece) => ({ ...piece, style }));
    const cut = runs(text).flatMap(styled);
    const differs = (one, other) => ["text", "time", "style"].some((name) => one[name] !== other?.[name]);
    let same = parts.pieces.findIndex((piece, i) => differs(piece, cut[i]));
    if (same < 0) same = parts.pieces.length;
    while (parts.text.childNodes.length > same) parts.text.lastChild.remove();
    parts.text.append(...cut.slice(same).map((piece) => this.#piece(piece)));
    parts.pieces = cut;
  }

  #piece(piece) {
    if (piece.time !== undefined) return this.#time(piece);
    return piece.style ? element(piece.style, { textContent: piece.text }) : piece.text;
  }

  #time({ text, time }) {
    const button = element("button", { type: "button", className: "time", textContent: text });
    button.title = `Go to ${label(time)}`;
    button.setAttribute("aria-label", `${text}, go there in the video`);
    button.addEventListener("click", () => this.player.seekTold(time));
    return button;
  }

  #nearEnd() {
    return this.end.getBoundingClientRect().top < byId("composer").getBoundingClientRect().top + NEAR;
  }
}

/** "First token 0.31 s · 58 tokens/s · 91 vision tokens · 64/96 text tokens cached". */
function facts(turn) {
  const words = turn.state === "stopped" ? ["Stopped"] : [];
  if (turn.finish === "length") words.push("Cut off: the most new tokens were reached");
  const { usage, timings } = turn;
  if (timings?.first_token) words.push(`first token ${timings.first_token.toFixed(2)} s`);
  if (timings?.per_token) words.push(`${Math.round(1 / timings.per_token)} tokens/s`);
  if (usage?.prompt_tokens_details) {
    const { cached_tokens: cached, text_tokens: text, vision_tokens: vision } = usage.prompt_tokens_details;
    words.push(counted(vision, "vision token"), `${count(cached)}/${counted(text, "text token")} cached`);
  }
  const line = words.join(" · ");
  return line.charAt(0).toUpperCase() + line.slice(1);
}

/** Copy a text; if the browser forbids that, select its element for the user to copy. */
async function copyText(text, shown, button) {
  let said = "Copied";
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    getSelection().selectAllChildren(shown);
    said = "Selected: press Ctrl + C";
  }
  button.textContent = said;
  announce(`${said}.`);
  setTimeout(() => (button.textContent = "Copy"), COPIED);
}
