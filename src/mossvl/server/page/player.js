// Shows the current medium, and goes to times of a video.

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
    this.video.load(); // lets go of the last one
    if (medium?.shown) {
      this.picture.src = medium.shown;
      this.picture.alt = medium.name;
    }
  }

  /** The video that times refer to: the one that is shown, or else the first. */
  get subject() {
    const { current, all } = this.media;
    return current?.kind === "video" ? current : (all.find((medium) => medium.kind === "video") ?? null);
  }

  /** Go to what a prompt or an answer tells to be at a time. */
  seekTold(time) {
    if (this.subject !== null) this.seek(this.subject.playerTime(time), this.subject);
  }

  /** Go to a time on the player's clock; the video plays on if it was playing. */
  seek(time, medium) {
    if (this.media.current !== medium) this.media.show(medium);
    const shown = Math.ceil(time * 1000 - 0.001) / 1000; // players round down, to the end of the frame before
    const go = () => (this.video.currentTime = shown);
    if (this.video.readyState >= HTMLMediaElement.HAVE_METADATA) go();
    else this.video.addEventListener("loadedmetadata", go, { once: true });
    this.stage.scrollIntoView({ block: "nearest", behavior: reducedMotion() ? "auto" : "smooth" });
  }
}
