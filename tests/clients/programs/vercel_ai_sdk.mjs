// Vercel AI SDK: text, a required tool, and an object of a zod schema.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";

const provider = createOpenAICompatible({
  name: "ernie",
  baseURL: "http://127.0.0.1:8188/v1",
  apiKey: "null",
  supportsStructuredOutputs: true,
});
const common = { model: provider("ernie-tiny"), prompt: "What is the capital of France?", temperature: 0, maxRetries: 0, maxOutputTokens: 400 };
const City = z.enum(["Beijing", "Paris"]);

console.log("text:", (await generateText(common)).text);
console.log("stream:", await streamText(common).text);

const getWeather = tool({
  inputSchema: z.object({ city: City }),
  execute: async ({ city }) => `It is sunny in ${city}.`,
});
const toolChoice = { type: "tool", toolName: "getWeather" };
const { toolResults } = await generateText({ ...common, tools: { getWeather }, toolChoice });
console.log("tool:", toolResults[0].toolName, toolResults[0].output);

const { object } = await generateObject({ ...common, schema: z.object({ country: z.enum(["China", "France"]), city: City }) });
console.log("object:", object.country, object.city);
