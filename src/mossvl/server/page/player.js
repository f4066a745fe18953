// The player: shows the current medium, and seeks.

import { byId, reducedMotion } from "./dom.js";

export class Player {
  constructor(media) {
    this.media = media;
    this.stage = byId("stage");
    this.video = byId("player");
    this.picture = byId("picture");
    this.trouble = byId("player-trouble");
    this.shown = null;
    this.unplayable = false;
    media.addEventListener("change", () => this.draw());
    this.video.addEventListener("error", () => {
      this.unplayable = this.video.hasAttribute("src");
      this.draw();
    });
  }

  draw() {
    const medium = this.media.current;
    if (this.shown !== (medium?.shown ?? null)) this.#show(medium);
    const broken = Boolean(medium?.error) && !medium.seen;
    this.stage.hidden = medium === null || broken || (this.unplayable && !medium.seen);
    this.video.hidden = medium?.kind !== "video" || this.unplayable;
    this.trouble.hidden = !(this.unplayable && medium?.seen);
  }

  #show(medium) {
    this.shown = medium?.shown ?? null;
    this.unplayable = false;
    const video = medium?.kind === "video";
    this.picture.hidden = video;
    if (video) {
      this.video.src = medium.shown;
      this.video.setAttribute("aria-label", medium.name);
      return;
    }
    this.video.removeAttribute("src");
    this.video.load(); // releases the previous video
    if (medium?.shown) {
      this.picture.src = medium.shown;
      this.picture.alt = medium.name;
    }
  }

  /** The video that times in answers refer to: the current one, or else the first. */
  get subject() {
    const { current, all } = this.media;
    return current?.kind === "video" ? current : (all.find((medium) => medium.kind === "video") ?? null);
  }

  /** Seek to a timestamp of the prompt or of an answer. */
  seekTold(time) {
    if (this.subject !== null) this.seek(this.subject.playerTime(time), this.subject);
  }

  /** Seek to a time of the player, without pausing it. */
  seek(time, medium) {
    if (this.media.current !== medium) this.media.show(medium);
    const shown = Math.ceil(time * 1000 - 0.001) / 1000; // players round down, to the previous frame
    const go = () => (this.video.currentTime = shown);
    if (this.video.readyState >= HTMLMediaElement.HAVE_METADATA) go();
    else this.video.addEventListener("loadedmetadata", go, { once: true });
    this.stage.scrollIntoView({ block: "nearest", behavior: reducedMotion() ? "auto" : "smooth" });
  }
}
