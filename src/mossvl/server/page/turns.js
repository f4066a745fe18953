// Draws the conversation, while it comes.

import { announce, byId, counted, count, element, problem, reducedMotion } from "./dom.js";
import { runs } from "./text.js";
import { label, pieces } from "./times.js";

const NEAR = 120; // pixels from the end at which new text is followed

export class Turns {
  constructor(conversation, player) {
    this.conversation = conversation;
    this.player = player;
    this.list = byId("turns");
    this.end = byId("end");
    this.drawn = new Map();
    conversation.addEventListener("change", ({ detail: turn }) => (turn ? this.#update(turn) : this.#clear()));
  }

  #clear() {
    this.drawn.clear();
    this.list.replaceChildren();
  }

  #update(turn) {
    const isNew = !this.drawn.has(turn);
    const follow = isNew || this.#nearEnd();
    if (isNew) this.drawn.set(turn, this.#turn(turn));
    this.#fill(turn, this.drawn.get(turn));
    if (follow) this.end.scrollIntoView({ block: "end", behavior: isNew && !reducedMotion() ? "smooth" : "auto" });
    if (isNew) announce("Waiting for the answer.");
    else if (!turn.running) announce(turn.error ? "" : `${turn.state === "stopped" ? "Stopped. " : ""}${turn.text}`);
  }

  #turn(turn) {
    const question = element(
      "div",
      { className: "question" },
      element("h3", { className: "unseen", textContent: "You" }),
      ...turn.media.map((medium) => element("span", { className: "about", textContent: medium.name })),
      element("p", { textContent: turn.question }),
    );
    const text = element("p", { className: "text" });
    const facts = element("p", { className: "facts" });
    const trouble = element("div");
    const answer = element(
      "div",
      { className: "answer" },
      element("h3", { className: "unseen", textContent: "The model" }),
      text,
      trouble,
      facts,
    );
    this.list.append(element("li", {}, question, answer));
    return { answer, text, facts, trouble, pieces: [] };
  }

  #fill(turn, parts) {
    parts.answer.classList.toggle("running", turn.running);
    parts.answer.classList.toggle("waiting", turn.running && turn.text === "");
    this.#write(parts, turn.text);
    parts.facts.textContent = turn.running ? "" : facts(turn);
    const again = () => this.conversation.running || this.conversation.retry(turn);
    const shown = turn.error ? [problem(turn.error.message, again, turn.error.retryAfter)] : [];
    parts.trouble.replaceChildren(...shown);
  }

  /** Write a text with its times as buttons; what is there already, a focused button say, is left alone. */
  #write(parts, text) {
    const duration = this.player.subject?.duration ?? -1;
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
    button.addEventListener("click", () => this.player.seek(time));
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
