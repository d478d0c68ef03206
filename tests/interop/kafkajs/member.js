// A member of a group with kafkajs: see tests/interop/members/__init__.py for what it says and hears.
'use strict'

const readline = require('node:readline')
const { Kafka, logLevel } = require('kafkajs')

const wanted = JSON.parse(process.argv[2])
const kafka = new Kafka({ brokers: [wanted.bootstrap], logLevel: logLevel.ERROR })
const consumer = kafka.consumer({
  groupId: wanted.group,
  ...(wanted.heartbeat_ms === 0 ? {} : { heartbeatInterval: wanted.heartbeat_ms ?? 300 }),
  // It heartbeats between fetches, so a long poll would delay every rebalance.
  maxWaitTimeInMs: 200,
  ...(wanted.session_ms ? { sessionTimeout: wanted.session_ms } : {}),
  ...(wanted.pattern ? { metadataMaxAge: 1000 } : {}),
})
const taken = new Map()

const now = () => Number(process.hrtime.bigint()) / 1e9
const say = (event, details = {}) => process.stdout.write(`${JSON.stringify({ event, t: now(), ...details })}\n`)

const commit = async () => {
  const offsets = [...taken].map(([where, offset]) => {
    const at = where.lastIndexOf('-')
    return { topic: where.slice(0, at), partition: Number(where.slice(at + 1)), offset: String(offset) }
  })
  taken.clear()
  const asked = now()
  let cause = ''
  try {
    if (offsets.length) await consumer.commitOffsets(offsets)
  } catch (error) {
    cause = String(error)
  }
  const rows = offsets.map(({ topic, partition, offset }) => [topic, partition, Number(offset)])
  say('commit', { offsets: rows, generation: -1, ok: !cause, cause, t: asked, until: now() })
}

consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
  const partitions = Object.entries(payload.memberAssignment).flatMap(([topic, numbers]) =>
    numbers.map((number) => [topic, number])
  )
  say('owns', { partitions: partitions.sort((a, b) => (a[0] === b[0] ? a[1] - b[1] : a[0] < b[0] ? -1 : 1)) })
})
consumer.on(consumer.events.REBALANCING, () => say('owns', { partitions: [] }))
consumer.on(consumer.events.CRASH, ({ payload }) => say('error', { text: String(payload.error) }))

const main = async () => {
  await consumer.connect()
  say('subscribing')
  const topics = wanted.pattern ? [new RegExp(wanted.pattern)] : wanted.topics
  await consumer.subscribe({ topics, fromBeginning: true })
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ topic, partition, message }) => {
      taken.set(`${topic}-${partition}`, Number(message.offset) + 1)
      if (!wanted.quiet) {
        say('record', { topic, partition, offset: Number(message.offset), value: message.value?.toString() ?? null })
      }
      if (wanted.commits) await commit()
    },
  })
  for await (const line of readline.createInterface({ input: process.stdin })) {
    if (line === 'commit') await commit()
    else if (line === 'close') break
  }
  await consumer.disconnect()
  say('closed')
  process.exit(0)
}

main().catch((error) => {
  say('error', { text: String(error) })
  process.exit(1)
})
