// Puts the page together.

import { model } from "./api.js";
import { Adding } from "./adding.js";
import { Cards } from "./cards.js";
import { Composer } from "./composer.js";
import { Controls } from "./controls.js";
import { Conversation } from "./conversation.js";
import { byId, counted, announce, element, problem } from "./dom.js";
import { Media } from "./media.js";
import { Player } from "./player.js";
import { Settings } from "./settings.js";
import { Strip } from "./strip.js";
import { Turns } from "./turns.js";

const media = new Media(() => controls.options);
const controls = new Controls(media);
const settings = new Settings();
const conversation = new Conversation(media, settings);
const player = new Player(media);
const composer = new Composer(conversation, media);
const adding = new Adding(media, {
  onAdded: added,
  onSample() {
    conversation.clear();
    media.clear();
  },
});
new Cards(media, { onRemove: () => byId("pick").focus() });
new Strip(media, player);
new Turns(conversation, player);

controls.addEventListener("change", () => media.lookAgain());
settings.addEventListener("key", async () => {
  if (await start()) for (const medium of media.all) if (medium.error) media.load(medium);
});
conversation.addEventListener("change", draw);
media.addEventListener("change", draw);
byId("new").addEventListener("click", () => {
  conversation.clear();
  announce("A new conversation.");
  composer.focus();
});
byId("export").addEventListener("click", save);

/** Something was added: a question is what comes next. On touch screens, a keyboard would cover it. */
function added() {
  byId("stage").scrollIntoView({ block: "nearest" });
  if (matchMedia("(hover: hover)").matches) composer.focus();
  const medium = media.current;
  medium.settled.then(() => {
    if (medium.ready) announce(`${medium.name}: ${counted(medium.seen.vision_tokens, "vision token")}`);
  });
}

function draw() {
  const { turns } = conversation;
  document.body.classList.toggle("with-media", media.all.length > 0);
  byId("welcome").hidden = turns.length > 0;
  byId("new").disabled = turns.length === 0;
  byId("export").disabled = !turns.some((turn) => turn.counts);
}

/** The conversation as a file of one line, which `mossvl run` answers. */
function save() {
  const text = `${JSON.stringify(conversation.exported())}\n`;
  const url = URL.createObjectURL(new Blob([text], { type: "application/x-ndjson" }));
  element("a", { href: url, download: "conversation.jsonl" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Follow what the server says of its model. */
function take({ id, mossvl: { media: defaults, caps, samples } }) {
  conversation.model = id;
  byId("model").textContent = id;
  const limits = Object.entries(caps).filter(([, most]) => most !== null);
  media.caps = { ...media.caps, ...Object.fromEntries(limits) };
  controls.configure(defaults, media.caps);
  settings.limit(caps.max_tokens);
  adding.offer(samples);
}

/** Ask the server what it serves; false if it does not say. */
async function start() {
  const notice = byId("notice");
  try {
    const served = await model();
    if (conversation.model !== served.id) take(served);
    notice.replaceChildren();
    return true;
  } catch (error) {
    notice.replaceChildren(...(error.status === 401 ? [] : [problem(error.message, start, error.retryAfter)]));
    if (error.retryAfter) setTimeout(start, 1000 * error.retryAfter); // the model is being loaded, say
    return false;
  }
}

byId("adjust").open = matchMedia("(min-width: 860px)").matches;
draw();
start();
