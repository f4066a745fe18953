// The frames that the model will see, with timestamps and token counts.

import { byId, count, counted, element, reducedMotion } from "./dom.js";
import { labels } from "./times.js";

export class Strip {
  constructor(media, player) {
    this.media = media;
    this.player = player;
    this.section = byId("frames");
    this.list = byId("strip");
    this.cost = byId("cost");
    this.drawn = null;
    media.addEventListener("change", () => this.draw());
    player.video.addEventListener("timeupdate", () => this.#mark(true));
    player.video.addEventListener("seeked", () => this.#mark(true));
  }

  draw() {
    const medium = this.media.current;
    const seen = medium?.seen ?? null;
    this.section.hidden = seen === null;
    this.section.setAttribute("aria-busy", Boolean(medium?.busy));
    this.cost.textContent = seen ? this.#words(medium) : "";
    if (this.drawn === seen) return;
    this.drawn = seen;
    this.list.hidden = seen?.kind !== "video";
    const frames = seen?.kind === "video" ? seen.frames : [];
    const names = labels(frames.map((frame) => frame.time));
    this.list.replaceChildren(...frames.map((frame, place) => this.#frame(frame, names[place], medium)));
    this.#mark(false);
  }

  #frame({ seek, thumbnail }, name, medium) {
    const picture = element("img", { alt: "", src: thumbnail });
    const at = element("span", { textContent: name });
    const button = element("button", { type: "button", className: "frame" }, picture, at);
    button.setAttribute("aria-label", `Go to ${name}`);
    button.addEventListener("click", () => this.player.seek(seek, medium));
    return element("li", {}, button);
  }

  /** Highlight the latest sampled frame at the player's time, and scroll to it while the video plays. */
  #mark(scroll) {
    const frames = this.drawn?.kind === "video" ? this.drawn.frames : [];
    const now = this.player.video.currentTime + 0.005;
    const last = frames.findLastIndex((frame) => frame.seek <= now);
    [...this.list.children].forEach((item, place) => {
      const was = item.firstChild.hasAttribute("aria-current");
      if (place !== last) item.firstChild.removeAttribute("aria-current");
      else if (!was) {
        item.firstChild.setAttribute("aria-current", "true");
        if (scroll) this.#reveal(item);
      }
    });
  }

  #reveal(item) {
    const left = item.offsetLeft - (this.list.clientWidth - item.offsetWidth) / 2;
    this.list.scrollTo({ left, behavior: reducedMotion() ? "auto" : "smooth" });
  }

  /** "7 frames · 128 × 96 pixels · 91 vision tokens + 63 text tokens". */
  #words(medium) {
    const { seen } = medium;
    const tokens = ({ vision_tokens: vision, text_tokens: text }) =>
      `${counted(vision, "vision token")}${text ? ` + ${counted(text, "text token")}` : ""}`;
    const words = [];
    if (seen.kind === "video") {
      const limited = this.#limited(medium) ? " (the model’s pixel budget allows no more)" : "";
      words.push(`${counted(seen.frames.length, "frame")}${limited}`);
    }
    words.push(`${seen.model_width} × ${seen.model_height} pixels${words.length ? " each" : ""}`, tokens(seen));
    const all = this.media.all.map((medium) => medium.seen).filter(Boolean);
    if (all.length > 1) {
      const sum = all.reduce((sum, one) => sum + one.vision_tokens, 0);
      words.push(`${count(sum)} vision tokens in all`);
    }
    return words.join(" · ");
  }

  /** Whether the pixel budget of all frames reduced their number. */
  #limited(medium) {
    const { fps, max_frames } = this.media.options(medium);
    const { frames, duration } = medium.seen;
    return frames.length >= this.media.budget && Math.min(max_frames, Math.floor(fps * duration)) > frames.length;
  }
}
