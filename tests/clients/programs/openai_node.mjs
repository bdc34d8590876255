// openai-node: a stream, a run with a tool, and an answer of a zod schema.

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ baseURL: "http://127.0.0.1:8188/v1", apiKey: "null", maxRetries: 0 });
const model = "ernie-tiny";
const messages = [{ role: "user", content: "What is the capital of France?" }];
const City = z.enum(["Beijing", "Paris"]);

const stream = client.chat.completions.stream({ model, messages, temperature: 0, max_tokens: 400 });
console.log("stream:", await stream.finalContent());

const runner = client.chat.completions.runTools({
  model,
  messages,
  temperature: 0, max_tokens: 400,
  tool_choice: { type: "function", function: { name: "get_weather" } },
  tools: [
    {
      type: "function",
      function: {
        name: "get_weather",
        parameters: z.toJSONSchema(z.object({ city: City })),
        parse: JSON.parse,
        function: ({ city }) => `It is sunny in ${city}.`,
      },
    },
  ],
});
console.log("runTools:", await runner.finalFunctionToolCallResult());

const Capital = z.object({ country: z.enum(["China", "France"]), city: City });
const answer = await client.chat.completions.parse({
  model,
  messages,
  temperature: 0, max_tokens: 400,
  response_format: zodResponseFormat(Capital, "capital"),
});
console.log("parse:", answer.choices[0].message.parsed.country, answer.choices[0].message.parsed.city);
