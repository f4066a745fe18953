// The form for questions.

import { byId, element, problem } from "./dom.js";

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
    this.trouble = byId("question-trouble");
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
    conversation.addEventListener("unsent", ({ detail: question }) => {
      if (!this.input.value.trim()) this.input.value = question;
      this.#fit();
      this.#refuse();
    });
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
    const { all } = this.media;
    if (all.length && !all.some((medium) => medium.usable || medium.busy)) {
      if (!this.input.value.trim()) this.input.value = question;
      this.#refuse();
      return;
    }
    this.trouble.replaceChildren();
    if (question === this.input.value.trim()) this.input.value = "";
    this.#fit();
    this.conversation.ask(question);
  }

  focus() {
    this.input.focus({ preventScroll: true });
  }

  draw() {
    const { running } = this.conversation;
    if (this.media.all.every((medium) => medium.usable)) this.trouble.replaceChildren();
    const focused = document.activeElement;
    this.stop.hidden = !running;
    this.send.hidden = running;
    if (running && focused === this.send) this.stop.focus();
    if (!running && focused === this.stop) this.focus();
    this.#offer(running ? [] : this.#questions());
  }

  /** Show why a question was not sent. */
  #refuse() {
    const { all } = this.media;
    const what = all.length === 1 ? `${all[0].name} cannot be used` : "none of the files can be used";
    this.trouble.replaceChildren(problem(`Not sent: ${what}. Add another one, or remove it to ask without.`));
    this.focus();
  }

  /** Suggest questions about the current medium that were not asked yet. */
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

  /** Fit the field's height to its text, within the style's bounds. */
  #fit() {
    this.input.style.height = "auto";
    this.input.style.height = `${this.input.scrollHeight}px`;
  }
}
