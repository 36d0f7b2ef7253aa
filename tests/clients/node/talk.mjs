// Talks to a server through the official packages of OpenAI and Anthropic, as their documents
// show; prints what came as JSON: node talk.mjs http://127.0.0.1:8000 vicuna-tiny
import Anthropic from "@anthropic-ai/sdk";
import OpenAI, { toFile } from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const [url, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const claude = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Who are you?" }];
const City = z.object({ city: z.enum(["Rome", "Oslo"]) });
const Verdict = z.object({ is_good: z.boolean() });
const tool = zodFunction({ name: "weather", description: "The weather of a city.", parameters: City });

async function call() {
  const asked = { model, tools: [tool], parallel_tool_calls: false };
  const first = await client.chat.completions.parse({ ...asked, messages, tool_choice: "required" });
  const message = first.choices[0].message;
  const [made] = message.tool_calls;
  const result = { role: "tool", tool_call_id: made.id, content: "sun" };
  const second = await client.chat.completions.create({
    ...asked, messages: [...messages, message, result], tool_choice: "none", max_tokens: 20,
  });
  return { ...made.function.parsed_arguments, said: second.choices[0].message.content.length > 0 };
}

async function streamedCall() {
  const tool_choice = { type: "function", function: { name: "weather" } };
  const stream = client.chat.completions.stream({ model, messages, tools: [tool], tool_choice });
  const message = await stream.finalMessage();
  return JSON.parse(message.tool_calls[0].function.arguments);
}

async function form() {
  const response_format = zodResponseFormat(Verdict, "verdict");
  const answer = await client.chat.completions.parse({ model, messages, response_format });
  return typeof answer.choices[0].message.parsed.is_good;
}

async function response() {
  const stream = client.responses.stream({ model, input: "Who are you?", temperature: 0 });
  let text = "";
  for await (const event of stream) if (event.type === "response.output_text.delta") text += event.delta;
  const whole = await stream.finalResponse();
  if (whole.output_text !== text) throw new Error("the pieces are not the whole");
  const format = zodTextFormat(Verdict, "verdict");
  const parsed = await client.responses.parse({ model, input: "Good?", text: { format } });
  return { text, form: typeof parsed.output_parsed.is_good };
}

async function embedding() {
  const answer = await client.embeddings.create({ model, input: ["red", "blue"] });
  return answer.data.map((item) => item.embedding.length);
}

async function file() {
  const sent = await client.files.create({
    file: await toFile(Buffer.from("{}\n"), "lines.jsonl"), purpose: "batch",
  });
  const text = await (await client.files.content(sent.id)).text();
  await client.files.delete(sent.id);
  return text;
}

async function anthropic() {
  const stream = claude.messages.stream({ model, messages, max_tokens: 60, temperature: 0 });
  const text = await stream.finalText();
  const input_schema = z.toJSONSchema(City);
  const called = await claude.messages.create({
    model, messages, max_tokens: 60, tools: [{ name: "weather", input_schema }],
    tool_choice: { type: "tool", name: "weather" },
  });
  return { text, call: called.content[0].input, why: called.stop_reason };
}

async function unknownModel() {
  try {
    await client.chat.completions.create({ model: "nobody", messages });
  } catch (error) {
    return error instanceof OpenAI.NotFoundError ? error.code : String(error);
  }
}

const listed = [];
for await (const card of client.models.list()) listed.push(card.id);
console.log(JSON.stringify({
  listed,
  call: await call(),
  streamedCall: await streamedCall(),
  form: await form(),
  response: await response(),
  embedding: await embedding(),
  file: await file(),
  anthropic: await anthropic(),
  unknownModel: await unknownModel(),
}));
