// Vercel's AI SDK: prints what came of each request as JSON.
const { generateObject, generateText, stepCountIs, streamText, tool } = require("ai");
const { z } = require("zod");

globalThis.AI_SDK_LOG_WARNINGS = false; // They go to stdout.

const [baseURL, apiKey, image, name] = process.argv.slice(2);
const settings = { name: "mossvl", baseURL, apiKey, supportsStructuredOutputs: true };
const makers = { openai: "createOpenAI", anthropic: "createAnthropic", "openai-compatible": "createOpenAICompatible" };
const model = require(`@ai-sdk/${name}`)[makers[name]](settings)("mossvl-tiny");
const parts = [{ type: "image", image }, { type: "text", text: "What is written there?" }];
const asked = { model, messages: [{ role: "user", content: parts }], maxRetries: 0 };
const sky = z.object({ sky: z.enum(["clear", "cloudy"]) });
const weather = tool({ description: "The weather.", inputSchema: sky, execute: async () => "12 degrees" });

async function main() {
  const answer = await generateText(asked);
  let streamed = "";
  for await (const text of streamText(asked).textStream) streamed += text;
  const turns = [...asked.messages, ...answer.response.messages, { role: "user", content: "What is written there?" }];
  const again = await generateText({ ...asked, messages: turns });
  const prompt = "How is the weather?";
  const tools = { model, prompt, tools: { weather }, toolChoice: "required", maxRetries: 0, stopWhen: stepCountIs(2) };
  const called = await generateText(tools);
  const calls = await streamText(tools).toolCalls;
  const { object } = await generateObject({ model, prompt, schema: sky, maxRetries: 0 });
  return {
    answer: answer.text,
    streamed,
    again: again.text,
    steps: called.steps.map((step) => step.toolCalls.map((call) => call.input)),
    calls: calls.map((call) => call.input),
    object,
  };
}

main().then((found) => console.log(JSON.stringify(found)));
