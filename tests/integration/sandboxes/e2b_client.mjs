// Talks to a server of E2B's protocol with the official JavaScript client, and prints what it saw as one JSON object.
// Arguments: the server's URL. The client is found in NIGHTSHIFT_E2B_JS/node_modules.
import { createRequire } from 'node:module'

const { Sandbox, CommandExitError } = createRequire(process.env.NIGHTSHIFT_E2B_JS + '/')('e2b')
const url = process.argv[2]
const options = { apiKey: 'e2b_' + '0'.repeat(40), apiUrl: url, sandboxUrl: url }
const seen = {}

async function error(call) {
  try {
    await call()
    return null
  } catch (raised) {
    return `${raised.constructor.name}: ${raised.message}`
  }
}

const box = await Sandbox.create({ ...options, timeoutMs: 300_000, envs: { GIVEN: 'yes' }, metadata: { build: 'js' } })
await box.files.write([{ path: 'one', data: '1' }, { path: '/tmp/z', data: new Uint8Array([0, 255]).buffer }])
seen.uploads = (await box.commands.run('cat one; od -An -tx1 /tmp/z; echo $GIVEN')).stdout
seen.bytes = Array.from(await box.files.read('/tmp/z', { format: 'bytes' }))
try {
  await box.commands.run('echo out; echo err >&2; kill -9 $$')
} catch (raised) {
  seen.signal = [raised instanceof CommandExitError, raised.exitCode, raised.error, raised.stdout, raised.stderr]
}
seen.cwd = await error(() => box.commands.run('true', { cwd: '/nowhere' }))
const parts = []
await box.commands.run('echo first; sleep 0.5; echo last', { onStdout: (text) => parts.push([text, Date.now()]) })
seen.streamed = [parts.map(([text]) => text), parts[1][1] - parts[0][1] > 250]
await box.files.makeDir('folder')
seen.directory = await error(() => box.files.read('folder'))
seen.absent = await error(() => box.files.read('absent'))
seen.listed = (await box.files.list('.')).map((entry) => [entry.name, entry.type]).sort()
await box.files.rename('one', 'folder/two')
seen.moved = await box.files.exists('folder/two')
const background = await box.commands.run('cat', { background: true, stdin: true })
await box.commands.sendStdin(background.pid, 'typed\n')
seen.processes = (await box.commands.list()).some((one) => one.pid === background.pid)
seen.killed = [await box.commands.kill(background.pid), (await error(() => background.wait())) !== null]
seen.paused = [await box.pause(), await box.pause()]
const pages = Sandbox.list({ ...options, query: { metadata: { build: 'js' }, state: ['paused'] } })
seen.found = (await pages.nextItems()).map((one) => one.sandboxId === box.sandboxId)
const resumed = await Sandbox.connect(box.sandboxId, options)
seen.resumed = (await resumed.commands.run('cat folder/two')).stdout
seen.invalid = await error(() => Sandbox.connect('no-such-sandbox', options))
seen.refused = await error(() => Sandbox.create('no-template', options))
seen.ended = [await resumed.kill(), await resumed.kill()]
console.log(JSON.stringify(seen))
