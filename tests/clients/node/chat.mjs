// Streams one chat through the official package; prints the text, then the usage as JSON.
import OpenAI from "openai";

const [baseURL, model, question] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const stream = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: question }],
  stream: true,
  stream_options: { include_usage: true },
  temperature: 0,
});
let usage = null;
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
  usage = chunk.usage ?? usage;
}
process.stdout.write("\n" + JSON.stringify(usage) + "\n");
