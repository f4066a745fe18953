// The list of media: names, upload progress, errors and buttons to remove them.

import { byId, element, icon, problem } from "./dom.js";

/** Renders `media` into #cards whenever they change. */
export class Cards {
  constructor(media, { onRemove }) {
    this.media = media;
    this.onRemove = onRemove;
    this.list = byId("cards");
    this.cards = new Map();
    media.addEventListener("change", () => this.draw());
  }

  draw() {
    for (const [medium, card] of this.cards) {
      if (this.media.all.includes(medium)) continue;
      card.item.remove();
      this.cards.delete(medium);
    }
    for (const medium of this.media.all) {
      if (!this.cards.has(medium)) this.cards.set(medium, this.#card(medium));
      this.#update(medium, this.cards.get(medium));
    }
  }

  #card(medium) {
    const name = element("span", { className: "name", textContent: medium.name });
    const picture = element("img", { alt: "", hidden: true });
    const show = element("button", { type: "button", className: "show" }, picture, name);
    const remove = element("button", { type: "button", className: "plain remove" }, icon("cross"));
    remove.setAttribute("aria-label", `Remove ${medium.name}`);
    remove.title = `Remove ${medium.name}`;
    const progress = element("progress", { max: 1, hidden: true, "aria-label": `Upload of ${medium.name}` });
    const trouble = element("div");
    const item = element("li", { className: "card" }, show, remove, progress, trouble);
    if (medium.sample) item.append(download(medium));
    show.addEventListener("click", () => this.media.show(medium));
    remove.addEventListener("click", () => {
      this.media.remove(medium);
      this.onRemove();
    });
    this.list.append(item);
    return { item, show, remove, picture, progress, trouble, error: null };
  }

  #update(medium, card) {
    const current = this.media.current === medium;
    card.item.classList.toggle("current", current);
    card.show.setAttribute("aria-pressed", current);
    card.remove.hidden = medium.asked;
    card.progress.hidden = !medium.uploading;
    if (medium.uploading) card.progress.value = medium.progress;
    const thumbnail = medium.seen?.frames[0]?.thumbnail;
    if (thumbnail && card.picture.hidden) {
      card.picture.src = thumbnail;
      card.picture.hidden = false;
    }
    if (card.error !== medium.error) {
      card.error = medium.error;
      card.item.classList.toggle("broken", medium.error !== null);
      const again = medium.error?.passing ? () => this.media.load(medium) : null;
      const words = `${medium.error?.message} ${medium.asked ? "" : "It is not sent."}`;
      const shown = medium.error ? [problem(words.trim(), again, medium.error.retryAfter)] : [];
      card.trouble.replaceChildren(...shown);
    }
  }
}

/** A download link of a sample, because an exported conversation names its file. */
function download({ sample, name }) {
  return element("a", { className: "download", href: sample.url, download: name, textContent: "Download the clip" });
}
