// A helia (IPFS) node under remote control, as peer.mjs is: Bitswap over a js-libp2p node on loopback.
import { createHeliaLight } from 'helia'
import { withBitswap } from '@helia/bitswap'
import { withLibp2pLight } from '@helia/libp2p'
import { unixfs } from '@helia/unixfs'
import { tcp } from '@libp2p/tcp'
import { noise } from '@libp2p/noise'
import { yamux } from '@libp2p/yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { multiaddr } from '@multiformats/multiaddr'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { sha256 } from 'multiformats/hashes/sha2'
import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { once } from 'node:events'
import readline from 'node:readline'

const say = (message) => process.stdout.write(JSON.stringify(message) + '\n')
const within = (seconds) => ({ signal: AbortSignal.timeout(seconds * 1000) })
const helia = await withBitswap(withLibp2pLight(createHeliaLight({}), {
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionGater: { denyDialMultiaddr: () => false },
  services: { identify: identify(), ping: ping() }
})).start()
const files = unixfs(helia)
const node = helia.libp2p

async function block (cid, seconds) {
  const got = await helia.blockstore.get(cid, within(seconds))
  if (got instanceof Uint8Array) return got
  const parts = []
  for await (const part of got) parts.push(part)
  return Buffer.concat(parts)
}

const commands = {
  dial: async ({ to }) => { const c = await node.dial(multiaddr(to)); return { security: c.encryption, muxer: c.multiplexer } },
  protocols: async () => ({ protocols: node.getProtocols() }),
  add: async ({ path }) => ({ cid: (await files.addByteStream(createReadStream(path, { highWaterMark: 1 << 20 }))).toString() }),
  cat: async ({ cid, to, seconds }) => {
    const out = createWriteStream(to)
    let size = 0
    for await (const part of files.cat(CID.parse(cid), within(seconds))) {
      size += part.length
      if (!out.write(part)) await once(out, 'drain')
    }
    out.end()
    await once(out, 'finish')
    return { size }
  },
  list: async ({ cid, seconds }) => {
    const names = []
    for await (const entry of files.ls(CID.parse(cid), within(seconds))) names.push([entry.name, entry.cid.toString()])
    return { names }
  },
  put: async ({ hex }) => {
    const bytes = Buffer.from(hex, 'hex')
    const cid = CID.create(1, raw.code, await sha256.digest(bytes))
    await helia.blockstore.put(cid, bytes)
    return { cid: cid.toString() }
  },
  block: async ({ cid, seconds }) => { const bytes = await block(CID.parse(cid), seconds); return { size: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') } }
}

say({ event: 'ready', peer: node.peerId.toString(), addresses: node.getMultiaddrs().map(String) })
const lines = readline.createInterface({ input: process.stdin })
lines.on('line', async (line) => {
  const { id, command, ...args } = JSON.parse(line)
  try { say({ answer: id, ...(await commands[command](args)) }) } catch (error) { say({ answer: id, failed: String(error?.stack ?? error).slice(0, 2000) + ' ' + (error?.errors ?? []).map(String).join('; ').slice(0, 1000) }) }
})
lines.on('close', () => process.exit(0))
