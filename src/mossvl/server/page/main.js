// Connects the parts of the page.

import { access, model } from "./api.js";
import { Adding } from "./adding.js";
import { Cards } from "./cards.js";
import { Composer } from "./composer.js";
import { Controls } from "./controls.js";
import { Conversation } from "./conversation.js";
import { byId, counted, announce, element, problem } from "./dom.js";
import { Drawing } from "./drawing.js";
import { Media } from "./media.js";
import { Player } from "./player.js";
import { Settings } from "./settings.js";
import { Strip } from "./strip.js";
import { Turns } from "./turns.js";
import { Undo } from "./undo.js";

const LOADING = "The model is being loaded…";

const media = new Media();
const controls = new Controls(media);
const settings = new Settings();
const conversation = new Conversation(media, settings, connect);
const player = new Player(media);
const composer = new Composer(conversation, media);
const undo = new Undo(conversation, media, { onUndone: () => composer.focus() });
const adding = new Adding(media, { onAdded: added, onSample: () => undo.leave({ keep: false }) });
new Drawing({ onDrawn: drawn });
new Cards(media, { onRemove: () => byId("pick").focus() });
new Strip(media, player);
new Turns(conversation, player, { onRemove: () => composer.focus() });

settings.addEventListener("key", async () => {
  if (await start()) for (const medium of media.all) if (medium.error) media.load(medium);
});
conversation.addEventListener("change", draw);
media.addEventListener("change", draw);
byId("new").addEventListener("click", () => {
  undo.leave({ keep: true });
  composer.focus();
});
byId("export").addEventListener("click", save);
access.addEventListener("loading", () => {
  byId("notice").replaceChildren(element("p", { className: "hint", textContent: LOADING }));
  announce(LOADING);
});
access.addEventListener("loaded", () => byId("notice").replaceChildren());
addEventListener("beforeunload", (event) => {
  if (conversation.turns.length) event.preventDefault(); // the browser asks for confirmation
});

/** After adding a medium, focus the question; not on touch screens, where the keyboard would cover the medium. */
function added() {
  byId("stage").scrollIntoView({ block: "nearest" });
  if (matchMedia("(hover: hover)").matches) composer.focus();
  const medium = media.current;
  medium.settled.then(() => {
    if (medium.ready) announce(`${medium.name}: ${counted(medium.seen.vision_tokens, "vision token")}`);
  });
}

/** Add what was drawn, and ask about it. */
function drawn(file) {
  if (adding.addFiles([file])) composer.ask("Describe the picture.");
}

function draw() {
  const { turns } = conversation;
  document.body.classList.toggle("with-media", media.all.length > 0);
  byId("welcome").hidden = turns.length > 0;
  byId("new").disabled = turns.length === 0;
  byId("export").disabled = !turns.some((turn) => turn.counts);
}

/** Download the conversation as a query file of one line for `mossvl run`. */
function save() {
  const text = `${JSON.stringify(conversation.exported())}\n`;
  const url = URL.createObjectURL(new Blob([text], { type: "application/x-ndjson" }));
  element("a", { href: url, download: "conversation.jsonl" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
  announce("The conversation is saved. mossvl run asks its last question again.");
}

/** Apply the server's description of its model. */
function take({ id, mossvl: { media: defaults, caps, samples } }) {
  conversation.model = id;
  byId("model").textContent = id;
  const limits = Object.entries(caps).filter(([, most]) => most !== null);
  media.caps = { ...media.caps, ...Object.fromEntries(limits) };
  controls.configure(defaults, media.caps);
  settings.limit(caps.max_tokens);
  adding.offer(samples);
}

/** Fetch and apply the served model. */
async function connect() {
  const served = await model();
  if (conversation.model !== served.id) take(served);
}

/** Connect and show an error on failure; return whether it succeeded. */
async function start() {
  const notice = byId("notice");
  try {
    await connect();
    notice.replaceChildren();
    return true;
  } catch (error) {
    notice.replaceChildren(...(error.status === 401 ? [] : [problem(error.message, start, error.retryAfter)]));
    if (error.retryAfter) setTimeout(start, 1000 * error.retryAfter); // a busy server
    return false;
  }
}

byId("adjust").open = matchMedia("(min-width: 860px)").matches;
draw();
start();
