// OpenAI's client for JavaScript: prints what came of each request as JSON.
const OpenAI = require("openai");

const [baseURL, apiKey, image] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const model = "mossvl-tiny";
const picture = [{ type: "image_url", image_url: { url: image } }, { type: "text", text: "What is written there?" }];
const schema = { type: "object", properties: { sky: { enum: ["clear", "cloudy"] } }, required: ["sky"] };
const weather = { type: "function", function: { name: "weather", parameters: schema } };

async function main() {
  const asked = { model, messages: [{ role: "user", content: picture }] };
  const answer = await client.chat.completions.create(asked);
  let streamed = "";
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
    streamed += chunk.choices[0].delta.content ?? "";
  }
  const messages = [{ role: "user", content: "How is the weather?" }];
  const tools = { model, messages, tools: [weather], tool_choice: "required" };
  const called = await client.chat.completions.create(tools);
  const stream = client.chat.completions.stream({ ...tools, stream: true });
  const final = await stream.finalChatCompletion();
  const form = { type: "json_schema", json_schema: { name: "sky", schema, strict: true } };
  const formed = await client.chat.completions.create({ model, messages, response_format: form });
  return {
    answer: answer.choices[0].message.content,
    streamed,
    called: called.choices[0].message.tool_calls[0].function,
    final: final.choices[0].message.tool_calls[0].function,
    reason: final.choices[0].finish_reason,
    formed: formed.choices[0].message.content,
  };
}

main().then((found) => console.log(JSON.stringify(found)));
