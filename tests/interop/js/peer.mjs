// A js-libp2p node under remote control: one JSON object a line in, one a line out.
// usage: node peer.mjs [--security noise|tls] [--kad PROTOCOL] [--psk FILE]
import { createLibp2p } from 'libp2p'
import { tcp } from '@libp2p/tcp'
import { noise } from '@libp2p/noise'
import { tls } from '@libp2p/tls'
import { yamux } from '@libp2p/yamux'
import { identify, identifyPush } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { gossipsub } from '@libp2p/gossipsub'
import { multiaddr } from '@multiformats/multiaddr'
import { peerIdFromString } from '@libp2p/peer-id'
import { CID } from 'multiformats/cid'
import { preSharedKey } from '@libp2p/pnet'
import { readFileSync } from 'node:fs'
import { setMaxListeners } from 'node:events'
import readline from 'node:readline'

setMaxListeners(1000)
const option = (name, otherwise) => {
  const at = process.argv.indexOf(`--${name}`)
  return at < 0 ? otherwise : process.argv[at + 1]
}
const say = (message) => process.stdout.write(JSON.stringify(message) + '\n')
const text = new TextDecoder()
const unlimited = { maxInboundStreams: 100000, maxOutboundStreams: 100000 }

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  ...(option('psk') ? { connectionProtector: preSharedKey({ psk: readFileSync(option('psk')) }) } : {}),
  connectionEncrypters: [option('security', 'noise') === 'tls' ? tls() : noise()],
  streamMuxers: [yamux()],
  connectionGater: { denyDialMultiaddr: () => false },
  connectionManager: { inboundConnectionThreshold: 10000, maxIncomingPendingConnections: 1000 },
  services: {
    identify: identify(),
    identifyPush: identifyPush(),
    ping: ping(),
    dht: kadDHT({
      protocol: option('kad', '/lattica/kad/1.0.0'),
      clientMode: false,
      peerInfoMapper: passthroughMapper,
      // What is under these keys is looked at by those who ask for it; of two the later is kept.
      validators: { lattica: async () => {}, interop: async () => {} },
      selectors: { lattica: () => 0, interop: () => 0 },
      allowQueryWithZeroPeers: true
    }),
    pubsub: gossipsub({ allowPublishToZeroTopicPeers: true, globalSignaturePolicy: 'StrictSign' })
  }
})

// What a stream carries in these tests: byte i is i modulo 251, so that a lost, doubled or swapped
// piece of any size shows.
const PIECE = 64 * 1024
const pattern = new Uint8Array(PIECE + 251).map((_, i) => i % 251)
const piece = (offset, size) => pattern.subarray(offset % 251, (offset % 251) + size)

async function send (stream, size) {
  for (let offset = 0; offset < size;) {
    const part = Math.min(PIECE, size - offset)
    if (!stream.send(piece(offset, part))) await stream.onDrain()
    offset += part
  }
  await stream.close() // closes the writing side only
}

async function check (stream) {
  let offset = 0
  for await (const received of stream) {
    const bytes = received.subarray()
    for (let i = 0; i < bytes.length; i += PIECE) {
      const part = bytes.subarray(i, i + PIECE)
      if (Buffer.compare(part, piece(offset, part.length)) !== 0) throw new Error(`wrong bytes at ${offset}`)
      offset += part.length
    }
  }
  return offset
}

const serve = (protocol, handler) => node.handle(protocol, async (stream) => {
  try { await handler(stream) } catch (error) { say({ event: 'stream-error', protocol, error: String(error) }) }
}, unlimited)
await serve('/interop/echo', async (stream) => {
  for await (const bytes of stream) { if (!stream.send(bytes)) await stream.onDrain() }
  await stream.close()
})
await serve('/interop/sink', async (stream) => {
  const size = await check(stream)
  stream.send(new TextEncoder().encode(String(size)))
  await stream.close()
})
await serve('/interop/reset', async (stream) => {
  for await (const _ of stream) { stream.abort(new Error('asked to')); return }
})

node.addEventListener('peer:identify', ({ detail }) => say({
  event: 'identify', peer: detail.peerId.toString(), agent: detail.agentVersion, version: detail.protocolVersion,
  protocols: detail.protocols, addresses: detail.listenAddrs.map(String),
  signed: detail.signedPeerRecord != null
}))
node.services.pubsub.addEventListener('message', ({ detail }) => say({
  event: 'message', topic: detail.topic, data: text.decode(detail.data), from: detail.from?.toString()
}))

const target = (to) => to.startsWith('/') ? multiaddr(to) : peerIdFromString(to)
const open = (to, protocol) => node.dialProtocol(target(to), protocol, unlimited)
async function echo (to, size) {
  const stream = await open(to, '/interop/echo')
  const [, received] = await Promise.all([send(stream, size), check(stream)])
  return received
}
const bytesOf = (words) => new TextEncoder().encode(words)
const within = (milliseconds) => ({ signal: AbortSignal.timeout(milliseconds) })
const commands = {
  dial: async ({ to }) => { const c = await node.dial(target(to)); return { security: c.encryption, muxer: c.multiplexer } },
  ping: async ({ to }) => ({ ms: await node.services.ping.ping(target(to)) }),
  echo: async ({ to, size }) => ({ received: await echo(to, size) }),
  echoes: async ({ to, streams, size }) => ({ received: await Promise.all(Array.from({ length: streams }, () => echo(to, size))) }),
  sink: async ({ to, size }) => {
    const stream = await open(to, '/interop/sink')
    await send(stream, size)
    let answer = ''
    for await (const bytes of stream) answer += text.decode(bytes.subarray())
    return { received: Number(answer) }
  },
  reset: async ({ to }) => {
    const stream = await open(to, '/interop/hold')
    stream.send(new Uint8Array(1))
    await stream[Symbol.asyncIterator]().next()
    stream.abort(new Error('on purpose'))
    return {}
  },
  'expect-reset': async ({ to }) => {
    const stream = await open(to, '/interop/reset')
    stream.send(new Uint8Array(1))
    try { for await (const _ of stream) ; } catch (error) { return { error: error.name } }
    return { error: null, status: stream.status }
  },
  unknown: async ({ to }) => { try { await open(to, '/interop/unknown') } catch (error) { return { error: error.name } } return { error: null } },
  hangup: async ({ to }) => { await node.hangUp(peerIdFromString(to)); return {} },
  subscribe: async ({ topic }) => { node.services.pubsub.subscribe(topic); return {} },
  publish: async ({ topic, data }) => ({ recipients: (await node.services.pubsub.publish(topic, new TextEncoder().encode(data))).recipients.length }),
  subscribers: async ({ topic }) => ({ peers: node.services.pubsub.getSubscribers(topic).map(String) }),
  provide: async ({ cid }) => { await node.contentRouting.provide(CID.parse(cid), within(15000)); return {} },
  providers: async ({ cid }) => {
    const found = []
    for await (const p of node.contentRouting.findProviders(CID.parse(cid), within(10000))) { found.push({ peer: p.id.toString(), addresses: p.multiaddrs.map(String) }); break }
    return { found }
  },
  put: async ({ key, value }) => { await node.contentRouting.put(bytesOf(key), Buffer.from(value, 'hex'), within(15000)); return {} },
  get: async ({ key }) => ({ value: Buffer.from(await node.contentRouting.get(bytesOf(key), within(10000))).toString('hex') }),
  'find-peer': async ({ peer }) => { const p = await node.peerRouting.findPeer(peerIdFromString(peer), within(10000)); return { peer: p.id.toString(), addresses: p.multiaddrs.map(String) } }
}

say({ event: 'ready', peer: node.peerId.toString(), addresses: node.getMultiaddrs().map(String) })
const lines = readline.createInterface({ input: process.stdin })
lines.on('line', async (line) => {
  const { id, command, ...args } = JSON.parse(line)
  try { say({ answer: id, ...(await commands[command](args)) }) } catch (error) { say({ answer: id, failed: String(error?.stack ?? error).slice(0, 2000) }) }
})
lines.on('close', () => process.exit(0))
