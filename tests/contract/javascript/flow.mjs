// Drives a broker with the official JavaScript client of QStash, and prints what came of each step as JSON.
//
// QSTASH_URL, QSTASH_TOKEN and the two signing keys say which broker. Every step stands for itself: one that
// fails does not keep the others from running. What a step throws is its result, and "ok" otherwise.

import assert from "node:assert/strict";
import http from "node:http";
import { Client, Receiver } from "@upstash/qstash";

const SOON_MS = 10_000;
const APP = "https://app.example";

const client = new Client({ baseUrl: process.env.QSTASH_URL, token: process.env.QSTASH_TOKEN });
const receiver = new Receiver({
  currentSigningKey: process.env.QSTASH_CURRENT_SIGNING_KEY,
  nextSigningKey: process.env.QSTASH_NEXT_SIGNING_KEY,
});

// --- a destination: keeps what it gets, answers 404 under /missing, and 200 elsewhere ---------------

const requests = [];
const destination = http.createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks).toString();
  requests.push({ method: request.method, url: request.url, headers: request.headers, body });
  const isMissing = request.url.startsWith("/missing");
  response.writeHead(isMissing ? 404 : 200, { "Content-Type": "text/plain" });
  response.end(isMissing ? "404 Not Found" : "done");
});
await new Promise((resolve) => destination.listen(0, "127.0.0.1", resolve));
const base = `http://127.0.0.1:${destination.address().port}`;

async function until(what, ask) {
  const endsAt = Date.now() + SOON_MS;
  for (;;) {
    const found = await ask();
    if (found) return found;
    if (Date.now() > endsAt) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const arrived = (path, count = 1) =>
  until(`${count} at ${path}`, () => {
    const found = requests.filter((each) => each.url === path);
    return found.length >= count && found;
  });

const statesOf = async (messageId) =>
  (await client.logs({ filter: { messageId } })).logs.map((each) => each.state).reverse();

const reached = (messageId, state) =>
  until(`${state} of ${messageId}`, async () => {
    const states = await statesOf(messageId);
    return states.at(-1) === state && states;
  });

async function dead(path, options = {}) {
  const sent = await client.publishJSON({ url: base + path, body: {}, retries: 0, ...options });
  await reached(sent.messageId, "FAILED");
  const { messages } = await client.dlq.listMessages({ filter: { messageId: sent.messageId } });
  assert.equal(messages.length, 1);
  return messages[0];
}

// --- steps ------------------------------------------------------------------------------------------

const steps = {
  async publish_and_verify() {
    const url = `${base}/published?a=b&c=%20`;
    const sent = await client.publishJSON({
      url,
      body: { n: 1 },
      method: "PUT",
      headers: { "Custom-Header": "value", "upstash-forward-x-own": "1" },
      timeout: 90,
    });

    const [seen] = await arrived("/published?a=b&c=%20");
    assert.deepEqual(Object.keys(sent), ["messageId"]);
    assert.equal(seen.headers["upstash-message-id"], sent.messageId);
    assert.deepEqual([seen.method, seen.body], ["PUT", '{"n":1}']);
    assert.equal(seen.headers["custom-header"], "value");
    assert.equal(seen.headers["x-own"], "1");
    assert.equal(seen.headers["content-type"], "application/json");
    assert.deepEqual(
      Object.keys(seen.headers).filter((name) => name.startsWith("upstash-telemetry")),
      [],
    );
    const signature = seen.headers["upstash-signature"];
    assert.equal(await receiver.verify({ signature, body: seen.body, url }), true);
    await assert.rejects(receiver.verify({ signature, body: "other", url }), /body hash does not match/);
    await assert.rejects(receiver.verify({ signature, body: seen.body, url: base }), /invalid subject/);
    assert.deepEqual(await reached(sent.messageId, "DELIVERED"), ["CREATED", "ACTIVE", "DELIVERED"]);
  },

  async read_back_a_message() {
    const sent = await client.publish({
      url: `${APP}/hook?a=b`,
      body: "text",
      headers: { "test-header": "value" },
      delay: "10d",
      retries: 0,
      retryDelay: "pow(retried, 2) * 1000",
      callback: `${APP}/callback?a=b`,
      failureCallback: `${APP}/failed`,
      flowControl: { key: "js-read-back", parallelism: 2, rate: 10, period: "1h30m3s" },
      label: ["js-a", "js-b"],
    });

    const found = await client.messages.get(sent.messageId);
    assert.deepEqual(found.header, {
      "Content-Type": ["text/plain;charset=UTF-8"],
      "Test-Header": ["value"],
    });
    assert.deepEqual([found.url, found.body, found.method], [`${APP}/hook?a=b`, "text", "POST"]);
    assert.equal(found.notBefore - found.createdAt, 864_000_000);
    assert.deepEqual([found.maxRetries, found.retryDelayExpression], [0, "pow(retried, 2) * 1000"]);
    assert.deepEqual([found.callback, found.failureCallback], [`${APP}/callback?a=b`, `${APP}/failed`]);
    assert.deepEqual([found.label, found.labels], ["js-a", ["js-a", "js-b"]]);
    assert.deepEqual(
      [found.flowControlKey, found.parallelism, found.ratePerSecond, found.period],
      ["js-read-back", 2, 10, 5403],
    );
    assert.equal(found.callerIp, "127.0.0.1");
  },

  async forward_repeated_headers_as_one() {
    const headers = new Headers();
    headers.append("X-Twice", "value-uppercase");
    headers.append("x-twice", "value-lowercase");
    const sent = await client.publishJSON({ url: `${base}/twice`, body: {}, headers });

    const found = await client.messages.get(sent.messageId);
    assert.deepEqual(found.header["X-Twice"], ["value-uppercase, value-lowercase"]);
  },

  async deduplicate() {
    const byId = { url: `${base}/once`, body: {}, deduplicationId: "js-once" };
    const first = await client.publishJSON(byId);
    assert.deepEqual(await client.publishJSON(byId), { messageId: first.messageId, deduplicated: true });

    const byContent = { url: `${base}/once`, body: { of: "content" }, contentBasedDeduplication: true };
    const other = await client.publishJSON(byContent);
    assert.deepEqual(await client.publishJSON(byContent), { messageId: other.messageId, deduplicated: true });
  },

  async enqueue_in_order() {
    const queue = client.queue({ queueName: "js-queue" });
    await queue.upsert({ parallelism: 1, paused: true });
    const ids = [];
    for (const n of [1, 2, 3]) {
      ids.push((await queue.enqueueJSON({ url: `${base}/enqueued`, body: { n } })).messageId);
    }
    const waiting = await queue.get();
    assert.deepEqual([waiting.name, waiting.lag, waiting.paused], ["js-queue", 3, true]);
    await queue.resume();

    const seen = await arrived("/enqueued", 3);
    assert.deepEqual(seen.map((each) => JSON.parse(each.body).n), [1, 2, 3]);
    assert.deepEqual(seen.map((each) => each.headers["upstash-message-id"]), ids);
    await reached(ids[2], "DELIVERED");
    assert.deepEqual([(await queue.get()).lag, (await queue.get()).paused], [0, false]);
  },

  async keep_queues() {
    const queue = client.queue({ queueName: "js-kept" });
    await queue.upsert({ parallelism: 3 });
    await queue.pause();
    assert.deepEqual([(await queue.get()).parallelism, (await queue.get()).paused], [3, true]);
    await queue.upsert({ parallelism: 2 });
    assert.equal((await queue.get()).paused, false);
    assert.ok((await queue.list()).some((each) => each.name === "js-kept"));
    await queue.delete();
    await queue.delete();
    assert.ok(!(await queue.list()).some((each) => each.name === "js-kept"));
    await assert.rejects(queue.get(), { name: "QstashError", status: 404 });
  },

  async send_a_batch() {
    await client.urlGroups.addEndpoints({ name: "js-batch", endpoints: [{ url: `${base}/batch/c` }] });
    const answers = await client.batchJSON([
      { url: `${base}/batch/a`, body: { n: 1 }, headers: { "X-Own": "1" }, retries: 0 },
      { url: `${base}/batch/b`, body: { n: 2 }, queueName: "js-batch" },
      { urlGroup: "js-batch", body: { n: 3 } },
    ]);

    assert.equal(answers.length, 3);
    assert.ok(Array.isArray(answers[2]));
    const ids = [answers[0].messageId, answers[1].messageId, answers[2][0].messageId];
    for (const [index, name] of ["a", "b", "c"].entries()) {
      const [seen] = await arrived(`/batch/${name}`);
      assert.equal(seen.headers["upstash-message-id"], ids[index]);
      assert.deepEqual(JSON.parse(seen.body), { n: index + 1 });
      assert.equal(seen.headers["content-type"], "application/json");
    }
    const first = await client.messages.get(ids[0]);
    assert.deepEqual(first.header, { "Content-Type": ["application/json"], "X-Own": ["1"] });
    assert.equal(first.maxRetries, 0);
    assert.equal((await client.messages.get(ids[1])).queueName, "js-batch");
    const one = await client.batch([{ url: `${base}/batch/one`, body: "text" }]);
    assert.deepEqual(Object.keys(one[0]), ["messageId"]);
  },

  async cancel_messages() {
    const late = { url: APP, body: {}, delay: 3600 };
    const ids = [];
    for (let n = 0; n < 3; n++) ids.push((await client.publishJSON(late)).messageId);
    assert.deepEqual(await client.messages.cancel(ids.slice(0, 2)), { cancelled: 2 });
    assert.deepEqual(await client.messages.cancel(ids), { cancelled: 1 });
    assert.deepEqual(await statesOf(ids[0]), ["CREATED", "CANCEL_REQUESTED", "CANCELED"]);

    const { messageId } = await client.publishJSON({ ...late, label: "js-cancel" });
    assert.deepEqual(await client.messages.cancel({ filter: { label: "js-cancel" } }), { cancelled: 1 });
    const last = await client.publishJSON(late);
    assert.deepEqual(await client.messages.cancel(last.messageId), { cancelled: 1 });
    await assert.rejects(client.messages.cancel(messageId), { name: "QstashError", status: 404 });
  },

  async keep_url_groups() {
    const name = "js-group";
    await client.urlGroups.delete(name);
    await client.urlGroups.addEndpoints({
      name,
      endpoints: [{ url: `${base}/group/a`, name: "first" }, { url: `${base}/group/b` }],
    });
    const group = await client.urlGroups.get(name);
    assert.deepEqual(group.endpoints, [
      { name: "first", url: `${base}/group/a` },
      { url: `${base}/group/b` },
    ]);
    assert.ok((await client.urlGroups.list()).some((each) => each.name === name));

    const answers = await client.publishJSON({ urlGroup: name, body: {} });
    assert.deepEqual(answers.map((each) => each.url), [`${base}/group/a`, `${base}/group/b`]);
    const [seen] = await arrived("/group/a");
    assert.equal(seen.headers["upstash-topic-name"], name);
    const message = await client.messages.get(answers[0].messageId);
    assert.deepEqual([message.urlGroup, message.endpointName], [name, "first"]);
    const { logs } = await client.logs({ filter: { urlGroup: name, state: "CREATED" } });
    assert.equal(logs.length, 2);

    await client.urlGroups.removeEndpoints({ name, endpoints: [{ name: "first" }] });
    assert.deepEqual((await client.urlGroups.get(name)).endpoints, [{ url: `${base}/group/b` }]);
    await client.urlGroups.removeEndpoints({ name, endpoints: [{ url: `${base}/group/b` }] });
    await assert.rejects(client.urlGroups.get(name), { name: "QstashError", status: 404 });
  },

  async keep_schedules() {
    const made = await client.schedules.create({
      destination: `${APP}/hook`,
      cron: " 0 4 1 1 * ",
      scheduleId: "js-schedule",
      headers: { "test-header": "value" },
      method: "PUT",
      retries: 1,
      retryDelay: "1000",
      delay: 10,
      timeout: 30,
      callback: `${APP}/callback`,
      failureCallback: `${APP}/failed`,
      flowControl: { key: "js-schedule", parallelism: 2, ratePerSecond: 3 },
      label: ["js-a", "js-b"],
    });
    assert.deepEqual(made, { scheduleId: "js-schedule" });

    const found = await client.schedules.get("js-schedule");
    assert.deepEqual(found.header, { "Content-Type": ["application/json"], "Test-Header": ["value"] });
    assert.deepEqual([found.cron, found.destination, found.method], ["0 4 1 1 *", `${APP}/hook`, "PUT"]);
    assert.deepEqual([found.body, found.delay, found.timeout, found.retries], [undefined, 10, 30, 1]);
    assert.deepEqual([found.callback, found.failureCallback], [`${APP}/callback`, `${APP}/failed`]);
    assert.deepEqual(
      [found.flowControlKey, found.parallelism, found.ratePerSecond, found.period],
      ["js-schedule", 2, 3, 1],
    );
    assert.deepEqual([found.label, found.labels, found.isPaused], ["js-a", ["js-a", "js-b"], false]);
    assert.equal(found.retryDelayExpression, "1000");
    assert.ok((await client.schedules.list()).some((each) => each.scheduleId === "js-schedule"));

    for (const [verb, isPaused] of [["pause", true], ["pause", true], ["resume", false]]) {
      await client.schedules[verb]({ schedule: "js-schedule" });
      assert.equal((await client.schedules.get("js-schedule")).isPaused, isPaused);
    }
    const again = await client.schedules.create({
      destination: APP,
      cron: "0 5 1 1 *",
      scheduleId: "js-schedule",
      queueName: "js-queue",
    });
    const changed = await client.schedules.get("js-schedule");
    assert.equal(again.scheduleId, "js-schedule");
    assert.deepEqual([changed.cron, changed.queueName, changed.retries], ["0 5 1 1 *", "js-queue", 3]);
    assert.deepEqual([changed.label, changed.callback, changed.delay], [undefined, undefined, undefined]);
    await client.schedules.delete("js-schedule");
    await assert.rejects(client.schedules.get("js-schedule"), { name: "QstashError", status: 404 });
  },

  async read_the_log() {
    const ids = [];
    for (let n = 0; n < 3; n++) {
      ids.push((await client.publishJSON({ url: `${base}/logged`, body: {}, label: "js-logged" })).messageId);
    }
    for (const id of ids) await reached(id, "DELIVERED");

    const filter = { label: "js-logged" };
    const whole = await client.logs({ filter });
    assert.deepEqual([whole.logs.length, whole.cursor], [9, undefined]);
    assert.ok(whole.logs.every((each) => each.label === "js-logged"));
    const first = await client.logs({ filter: { ...filter, count: 5 } });
    const rest = await client.logs({ filter: { ...filter, count: 5 }, cursor: first.cursor });
    assert.deepEqual([...first.logs, ...rest.logs], whole.logs);
    assert.equal(rest.cursor, undefined);

    const idsOf = ({ logs }) => [...new Set(logs.map((each) => each.messageId))].sort();
    const host = new URL(base).host;
    const since = Math.min(...whole.logs.map((each) => each.time));
    for (const request of [
      { messageIds: ids },
      { filter: { ...filter, state: "DELIVERED" } },
      { filter: { ...filter, host, path: "/logged" } },
      { filter: { ...filter, url: [`${base}/logged`, APP] } },
      { filter: { ...filter, fromDate: new Date(since), toDate: Date.now() } },
      { filter: { ...filter, callerIp: "127.0.0.1" } },
    ]) {
      assert.deepEqual(idsOf(await client.logs(request)), [...ids].sort(), JSON.stringify(request));
    }
    for (const nothing of [{ state: "FAILED" }, { path: "/other" }, { queueName: "js-queue" }, { toDate: since - 1 }]) {
      const found = await client.logs({ filter: { ...filter, ...nothing } });
      assert.deepEqual(found.logs, [], JSON.stringify(nothing));
    }
  },

  async read_delete_and_retry_dead_letters() {
    const letter = await dead("/missing/read", { label: "js-dead", body: { n: 1 }, method: "PUT" });
    assert.deepEqual([letter.responseStatus, letter.responseBody], [404, "404 Not Found"]);
    assert.deepEqual(letter.responseHeader["Content-Type"], ["text/plain"]);
    assert.deepEqual([letter.body, letter.method, letter.maxRetries], ['{"n":1}', "PUT", 0]);
    const second = await dead("/missing/read", { label: "js-dead" });

    const filter = { label: "js-dead" };
    const page = await client.dlq.listMessages({ count: 1, filter });
    const next = await client.dlq.listMessages({ count: 1, filter, cursor: page.cursor });
    assert.deepEqual(
      [...page.messages, ...next.messages].map((each) => each.dlqId),
      [second.dlqId, letter.dlqId],
    );
    const filtered = await client.dlq.listMessages({ filter: { responseStatus: 404, url: letter.url, ...filter } });
    assert.equal(filtered.messages.length, 2);
    const byIds = await client.dlq.listMessages({ dlqIds: [letter.dlqId] });
    assert.deepEqual(byIds.messages.map((each) => each.dlqId), [letter.dlqId]);

    const { responses } = await client.dlq.retry(letter.dlqId);
    assert.equal(responses.length, 1);
    assert.notEqual(responses[0].messageId, letter.messageId);
    await reached(responses[0].messageId, "FAILED");
    const retried = (await arrived("/missing/read", 3)).filter((each) => each.body === '{"n":1}');
    assert.deepEqual(retried.map((each) => each.method), ["PUT", "PUT"]);
    assert.deepEqual(retried.map((each) => each.headers["upstash-retried"]), ["0", "0"]);
    const many = await client.dlq.retry({ filter });
    assert.equal(many.responses.length, 2);
    assert.equal(many.cursor, undefined);
    for (const each of many.responses) await reached(each.messageId, "FAILED");
    assert.deepEqual((await client.dlq.retry({ filter: { label: "js-nothing" } })).responses, []);
    await assert.rejects(client.dlq.retry([letter.dlqId]), { name: "QstashError", status: 404 });

    const left = (await client.dlq.listMessages({ filter })).messages.map((each) => each.dlqId);
    assert.deepEqual(await client.dlq.delete(left[0]), { deleted: 1 });
    await assert.rejects(client.dlq.delete(left[0]), { name: "QstashError", status: 404 });
    await assert.rejects(client.dlq.delete({ filter: { lable: "js-dead" } }), { name: "QstashError", status: 400 });
    assert.equal((await client.dlq.delete(left)).deleted, 1);
    assert.equal((await client.dlq.delete({ filter })).deleted, 0);
  },

  async control_the_flow() {
    const key = "js-flow";
    const limits = { key, parallelism: 4, rate: 50, period: 60 };
    await client.publishJSON({ url: `${base}/flow`, body: {}, flowControl: limits });
    const fresh = await client.flowControl.get(key);
    assert.deepEqual([fresh.parallelismMax, fresh.rateMax, fresh.ratePeriod], [4, 50, 60]);
    assert.deepEqual([fresh.isPaused, fresh.isPinnedParallelism, fresh.isPinnedRate], [false, false, false]);

    await client.flowControl.pause(key);
    const { messageId } = await client.publishJSON({ url: `${base}/flow`, body: {}, flowControl: limits });
    const paused = await client.flowControl.get(key);
    assert.deepEqual([paused.isPaused, paused.waitListSize], [true, 1]);
    await client.flowControl.pin(key, { parallelism: 7, rate: 70, period: 120 });
    const pinned = await client.flowControl.get(key);
    assert.deepEqual([pinned.parallelismMax, pinned.rateMax, pinned.ratePeriod], [7, 70, 120]);
    assert.deepEqual([pinned.isPinnedParallelism, pinned.isPinnedRate], [true, true]);
    await client.flowControl.unpin(key, { parallelism: true, rate: true });
    const unpinned = await client.flowControl.get(key);
    assert.deepEqual([unpinned.isPinnedParallelism, unpinned.isPinnedRate], [false, false]);
    assert.deepEqual([unpinned.parallelismMax, unpinned.rateMax], [7, 70]);
    await client.flowControl.resetRate(key);
    assert.equal((await client.flowControl.get(key)).rateCount, 0);
    await client.flowControl.resume(key);
    await reached(messageId, "DELIVERED");
    assert.ok((await client.flowControl.getGlobalParallelism()).parallelismMax > 0);
  },

  async call_back() {
    const sent = await client.publishJSON({
      url: `${base}/missing/called`,
      body: { n: 1 },
      retries: 0,
      callback: `${base}/callback?a=b`,
      failureCallback: `${base}/failed`,
      headers: { "Upstash-Callback-Forward-X-Own": "1", "Upstash-Callback-Method": "PUT" },
    });

    const [callback] = await arrived("/callback?a=b");
    const [failure] = await arrived("/failed");
    assert.deepEqual([callback.method, callback.headers["x-own"]], ["PUT", "1"]);
    for (const [seen, url] of [[callback, `${base}/callback?a=b`], [failure, `${base}/failed`]]) {
      const signature = seen.headers["upstash-signature"];
      assert.equal(await receiver.verify({ signature, body: seen.body, url }), true);
      const told = JSON.parse(seen.body);
      assert.deepEqual([told.sourceMessageId, told.status], [sent.messageId, 404]);
      assert.equal(atob(told.body), "404 Not Found");
      assert.equal(atob(told.sourceBody), '{"n":1}');
    }
    assert.ok(JSON.parse(failure.body).dlqId);
    assert.equal(JSON.parse(callback.body).dlqId, undefined);
  },

  async redact() {
    const secret = "a secret of the sender";
    const letter = await dead("/missing/redacted", {
      body: secret,
      headers: { Authorization: secret },
      redact: { body: true, header: ["Authorization"] },
    });
    const [seen] = await arrived("/missing/redacted");
    assert.deepEqual([seen.body, seen.headers.authorization], [JSON.stringify(secret), secret]);
    const message = await client.messages.get(letter.messageId);
    const { logs } = await client.logs({ filter: { messageId: letter.messageId } });
    assert.match(message.body, /^REDACTED:[0-9a-f]{64}$/);
    assert.match(letter.header.Authorization[0], /^REDACTED:[0-9a-f]{64}$/);
    assert.ok(!JSON.stringify([message, letter, logs]).includes(secret));
    assert.ok(logs.every((each) => atob(each.body).startsWith("REDACTED:")));
  },

  async be_told_why_not() {
    const refused = { name: "QstashError", status: 400 };
    await assert.rejects(client.publishJSON({ url: APP, body: {}, retryDelay: "2 ^ 3" }), (error) => {
      assert.deepEqual([error.name, error.status], ["QstashError", 400]);
      assert.match(JSON.parse(error.message).error, /Upstash-Retry-Delay/);
      return true;
    });
    await assert.rejects(client.publishJSON({ url: "app.example", body: {} }), refused);
    await assert.rejects(
      client.queue({ queueName: "js-queue" }).enqueueJSON({ url: APP, body: {}, delay: 10 }),
      refused,
    );
    const stranger = new Client({ baseUrl: process.env.QSTASH_URL, token: "wrong" });
    await assert.rejects(stranger.messages.get("msg_1"), { name: "QstashError", status: 401 });
  },
};

// The client says on stderr what was refused; standard output is for the results alone.
const results = {};
for (const [name, step] of Object.entries(steps)) {
  try {
    await step();
    results[name] = "ok";
  } catch (error) {
    results[name] = String(error?.stack ?? error);
  }
}
destination.closeAllConnections();
destination.close();
console.log(JSON.stringify(results));
