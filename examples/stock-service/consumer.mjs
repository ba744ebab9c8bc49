// Answers the calls of the tool `stock_of`, which a build's request brings to its agent.
//
//     npm ci
//     node consumer.mjs --bootstrap 127.0.0.1:9092
//
// It reads `tool_call.requested` from the build topic, and sends `tool_call.result_given` to the requests topic. No code
// of Nightshift is needed: a key, six headers and a JSON object. Ends at SIGTERM and Ctrl-C, after the call at hand.
import { parseArgs } from "node:util";
import { Kafka, Partitioners, logLevel } from "kafkajs";

const { values: options } = parseArgs({
  options: {
    bootstrap: { type: "string", default: "127.0.0.1:9092" },
    prefix: { type: "string", default: "nightshift" }, // of the installation's topics
    group: { type: "string", default: "stock-service" }, // several processes of one group share the calls
  },
});

const TOOL = "stock_of";
const STOCK = { ladder: 3, drill: 0 };

const kafka = new Kafka({ clientId: "stock-service", brokers: [options.bootstrap], logLevel: logLevel.WARN });
const consumer = kafka.consumer({ groupId: options.group });
// The partitioner of Java's client, and of Nightshift: one key is in one partition, whoever sends it.
const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });

/** The newest `ce_sequence` of each build that this process has read. */
const newest = new Map();

/** Says whether this message, or a later one of its build, was read before: Kafka delivers at least once. */
function isRepeated(build, sequence) {
  if (sequence <= (newest.get(build) ?? "")) return true; // 19 digits each, so text is ordered as numbers are
  newest.set(build, sequence);
  return false;
}

/** Looks up the answer. An error goes back to the agent, which can correct its call. */
function answer({ sku }) {
  return sku in STOCK
    ? { is_error: false, data: { sku, left: STOCK[sku] } }
    : { is_error: true, output: `there is no ${sku}; there are: ${Object.keys(STOCK).join(", ")}` };
}

async function give(build, call, result) {
  const headers = {
    "content-type": "application/json",
    ce_specversion: "1.0",
    ce_id: call.call_id, // the same id for the same call, so a repeated answer is recognized as the same
    ce_type: "nightshift.requests.tool_call_result_given.v1",
    ce_source: "/examples/stock-service",
    ce_subject: build,
  };
  const value = JSON.stringify({ build_id: build, call_id: call.call_id, ...result });
  // The key is the build's id: it keeps the order of everything about one build.
  await producer.send({ topic: `${options.prefix}.requests.v1`, messages: [{ key: build, headers, value }] });
  console.log(`${call.call_id} ${JSON.stringify(call.input)} -> ${JSON.stringify(result)}`);
}

async function handle(message) {
  const header = (name) => message.headers[name]?.toString() ?? "";
  if (header("ce_type") !== "nightshift.build.tool_call_requested.v1") return; // all facts of builds are on this topic
  const build = message.key.toString();
  if (isRepeated(build, header("ce_sequence"))) return;
  const call = JSON.parse(message.value.toString());
  if (call.purpose !== "customer" || call.tool !== TOOL) return; // of the sandbox, or of another service
  if (call.deadline && new Date(call.deadline) < new Date()) return; // the agent went on without it
  await give(build, call, answer(call.input));
}

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, async () => {
    await consumer.disconnect();
    await producer.disconnect();
  });
}

await producer.connect();
await consumer.connect();
// From the beginning: a call that was made while no consumer ran can still be answered before its deadline.
await consumer.subscribe({ topics: [`${options.prefix}.build.v1`], fromBeginning: true });
await consumer.run({ eachMessage: ({ message }) => handle(message) });
console.log("ready");
