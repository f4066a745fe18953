// Undo of leaving a conversation, for a few seconds.

import { byId, element } from "./dom.js";
import { forget } from "./media.js";

const SECONDS = 10;

export class Undo {
  constructor(conversation, media, { onUndone }) {
    Object.assign(this, { conversation, media, onUndone });
    this.place = byId("undo");
    this.before = null; // the conversation to restore
    this.kept = []; // media that the new conversation shares
    conversation.addEventListener("change", () => conversation.turns.length && this.end());
    media.addEventListener("change", () => {
      if (this.kept.some((medium) => !media.all.includes(medium))) this.end();
    });
  }

  /** Leave the conversation, and also its media unless they are kept. */
  leave({ keep }) {
    this.end();
    const before = this.conversation.saved();
    this.conversation.clear();
    if (!keep) this.media.replace([]);
    this.before = before;
    this.kept = [...this.media.all];
    if (before.turns.length) this.#offer();
    else this.end();
  }

  /** End the chance to undo. */
  end() {
    clearTimeout(this.timer);
    this.place.replaceChildren();
    this.#forget(this.before?.all ?? []);
    this.before = null;
    this.kept = [];
  }

  #offer() {
    const button = element("button", { type: "button", className: "plain", textContent: "Undo" });
    button.addEventListener("click", () => this.#undo());
    this.place.replaceChildren(element("span", { textContent: "This is a new conversation." }), button);
    this.timer = setTimeout(() => this.#expire(), 1000 * SECONDS);
  }

  /** Expire, but not while the button has the pointer or focus. */
  #expire() {
    if (this.place.matches(":hover, :focus-within")) this.timer = setTimeout(() => this.#expire(), 1000);
    else this.end();
  }

  #undo() {
    const { before } = this;
    const since = this.media.all;
    this.before = null;
    this.conversation.restore(before);
    this.#forget(since);
    this.end();
    this.onUndone();
  }

  /** Delete media that are not in the conversation. */
  #forget(media) {
    for (const medium of media) if (!this.media.all.includes(medium)) forget(medium);
  }
}
