// Where questions are written.

import { byId, element } from "./dom.js";

const GENERAL = {
  video: ["What happens in the clip?", "Describe the clip."],
  image: ["Describe the picture."],
};

export class Composer {
  constructor(conversation, media) {
    this.conversation = conversation;
    this.media = media;
    this.form = byId("composer");
    this.input = byId("question");
    this.send = byId("send");
    this.stop = byId("stop");
    this.chips = byId("chips");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask(this.input.value);
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.ask(this.input.value);
    });
    this.input.addEventListener("input", () => this.#fit());
    this.stop.addEventListener("click", () => conversation.stop());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.form.contains(document.activeElement)) conversation.stop();
    });
    conversation.addEventListener("change", () => this.draw());
    media.addEventListener("change", () => this.draw());
    this.#fit();
  }

  ask(text) {
    const question = text.trim();
    if (!question || this.conversation.running) return;
    if (question === this.input.value.trim()) this.input.value = "";
    this.#fit();
    this.conversation.ask(question);
  }

  focus() {
    this.input.focus({ preventScroll: true });
  }

  draw() {
    const { running } = this.conversation;
    const focused = document.activeElement;
    this.stop.hidden = !running;
    this.send.hidden = running;
    if (running && focused === this.send) this.stop.focus();
    if (!running && focused === this.stop) this.focus();
    this.#offer(running ? [] : this.#questions());
  }

  /** Questions that suit the current medium and were not asked yet. */
  #questions() {
    const { current } = this.media;
    if (!current || current.error) return [];
    const asked = new Set(this.conversation.turns.map((turn) => turn.question));
    const questions = current.sample?.questions ?? (asked.size ? [] : GENERAL[current.kind]);
    return questions.filter((question) => !asked.has(question));
  }

  #offer(questions) {
    const shown = [...this.chips.children].map((item) => item.textContent);
    if (shown.join("\n") === questions.join("\n")) return;
    const hadFocus = this.chips.contains(document.activeElement);
    this.chips.replaceChildren(...questions.map((question) => this.#chip(question)));
    this.chips.hidden = questions.length === 0;
    this.chips.scrollLeft = 0;
    if (hadFocus) this.focus();
  }

  #chip(question) {
    const button = element("button", { type: "button", className: "chip", textContent: question });
    button.addEventListener("click", () => this.ask(question));
    return element("li", {}, button);
  }

  /** As high as its text, within bounds that the style sets. */
  #fit() {
    this.input.style.height = "auto";
    this.input.style.height = `${this.input.scrollHeight}px`;
  }
}
