// Answers tests/interop/clients/bridge.py with kafkajs: one JSON request a line in, one JSON answer a line out.
'use strict'

const readline = require('node:readline')
const kafkajs = require('kafkajs')
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = kafkajs
const snappy = require('kafkajs-snappy')
const lz4 = require('lz4-napi')
const zstd = require('@bokuweb/zstd-wasm')

CompressionCodecs[CompressionTypes.Snappy] = snappy
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: (encoder) => lz4.compressFrame(encoder.buffer),
  decompress: (buffer) => lz4.decompressFrame(buffer),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from(zstd.compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(zstd.decompress(buffer)),
})
const CODECS = { none: 'None', gzip: 'GZIP', snappy: 'Snappy', lz4: 'LZ4', zstd: 'ZSTD' }

const kafka = new Kafka({ brokers: [process.argv[2]], logLevel: logLevel.NOTHING })
const readers = new Map()

const bytes = (text) => (text === null || text === undefined ? null : Buffer.from(text, 'base64'))
const text = (buffer) => (buffer === null || buffer === undefined ? null : Buffer.from(buffer).toString('base64'))

const withAdmin = async (work) => {
  const admin = kafka.admin()
  await admin.connect()
  try {
    return await work(admin)
  } finally {
    await admin.disconnect()
  }
}

const withProducer = async (options, work) => {
  const producer = kafka.producer(options)
  await producer.connect()
  try {
    return await work(producer)
  } finally {
    await producer.disconnect()
  }
}

// kafkajs assigns partitions only through groups: reading by assignment is done one fetch loop a reader, on its own
// group-less primitives: the cluster it connects and the broker that leads the partition.
class AssignedReader {
  constructor(topic, partition) {
    this.topic = topic
    this.partition = partition
    this.pending = []
  }

  async open(at) {
    const Cluster = require('kafkajs/src/cluster')
    const createSocketFactory = require('kafkajs/src/network/socketFactory')
    const { createLogger, LEVELS } = require('kafkajs/src/loggers')
    const LoggerConsole = require('kafkajs/src/loggers/console')
    this.cluster = new Cluster({
      socketFactory: createSocketFactory(),
      logger: createLogger({ level: LEVELS.NOTHING, logCreator: LoggerConsole }),
      brokers: [process.argv[2]],
      clientId: 'kafkajs',
      connectionTimeout: 1000,
      authenticationTimeout: 10000,
      reauthenticationThreshold: 10000,
      requestTimeout: 30000,
      metadataMaxAge: 300000,
      retry: {},
      allowAutoTopicCreation: false,
      maxInFlightRequests: null,
      isolationLevel: 1,
      offsets: new Map(),
      instrumentationEmitter: null,
    })
    await this.cluster.connect()
    await this.cluster.addTargetTopic(this.topic)
    if (at === 'start' || at === 'end' || at.startsWith('@')) {
      const wanted = at === 'start' ? { fromBeginning: true } : at === 'end' ? { fromBeginning: false } : null
      const query = wanted ?? { fromTimestamp: at.slice(1) }
      const [found] = await this.cluster.fetchTopicsOffset([
        { topic: this.topic, partitions: [{ partition: this.partition }], ...query },
      ])
      this.offset = found.partitions[0].offset
    } else {
      this.offset = at
    }
  }

  async take(count, timeoutMs) {
    const deadline = Date.now() + timeoutMs
    while (this.pending.length < count) {
      if (Date.now() > deadline) throw new Error(`${this.pending.length} of ${count} records in ${timeoutMs} ms`)
      const leader = this.cluster.findLeaderForPartitions(this.topic, [this.partition])
      const broker = await this.cluster.findBroker({ nodeId: Object.keys(leader)[0] })
      const { responses } = await broker.fetch({
        maxWaitTime: 500,
        minBytes: 1,
        maxBytes: 10485760,
        isolationLevel: 1,
        topics: [
          {
            topic: this.topic,
            partitions: [{ partition: this.partition, fetchOffset: this.offset, maxBytes: 1048576 }],
          },
        ],
      })
      for (const each of responses[0].partitions[0].messages) {
        if (BigInt(each.offset) < BigInt(this.offset)) continue
        this.pending.push(each)
        this.offset = (BigInt(each.offset) + 1n).toString()
      }
    }
    return this.pending.splice(0, count).map((each) => ({
      key: text(each.key),
      value: text(each.value),
      headers: Object.entries(each.headers ?? {}).map(([name, value]) => [name, text(value)]),
      timestamp: Number(each.timestamp),
      offset: Number(each.offset),
    }))
  }

  async close() {
    await this.cluster.disconnect()
  }
}

const HANDLERS = {
  create: ({ topic, partitions, configs }) =>
    withAdmin((admin) =>
      admin.createTopics({
        topics: [
          {
            topic,
            numPartitions: partitions,
            configEntries: Object.entries(configs).map(([name, value]) => ({ name, value })),
          },
        ],
      })
    ),
  delete: ({ topic }) => withAdmin((admin) => admin.deleteTopics({ topics: [topic] })),
  partitions: ({ topic }) =>
    withAdmin(async (admin) => {
      const names = await admin.listTopics()
      if (!names.includes(topic)) return 0
      return (await admin.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions.length
    }),
  produce: ({ topic, partition, records, codec }) =>
    withProducer({}, (producer) =>
      producer.send({
        topic,
        compression: CompressionTypes[CODECS[codec]],
        messages: records.map((each) => ({
          partition,
          key: bytes(each.key),
          value: bytes(each.value),
          headers: Object.fromEntries(each.headers.map(([name, value]) => [name, bytes(value)])),
          ...(each.timestamp === null ? {} : { timestamp: String(each.timestamp) }),
        })),
      })
    ),
  produce_in_flight: ({ topic, partition, values }) =>
    withProducer({ idempotent: true, maxInFlightRequests: 5 }, async (producer) => {
      const sends = []
      for (let at = 0; at < values.length; at += 4) {
        const messages = values.slice(at, at + 4).map((value) => ({ partition, value: bytes(value) }))
        sends.push(producer.send({ topic, messages }))
      }
      await Promise.all(sends)
    }),
  read: async ({ topic, partition, at, reader }) => {
    const opened = new AssignedReader(topic, partition)
    await opened.open(at)
    readers.set(reader, opened)
  },
  take: ({ reader, count, timeout_ms }) => readers.get(reader).take(count, timeout_ms),
  close: async ({ reader }) => {
    await readers.get(reader).close()
    readers.delete(reader)
  },
}

const main = async () => {
  await zstd.init()
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(line)
    let answer
    try {
      answer = { ok: (await HANDLERS[request.do](request)) ?? null }
      if (request.do !== 'partitions' && request.do !== 'take') answer = { ok: null }
    } catch (error) {
      const cause = error.cause ?? error
      answer = { error: String(error.stack ?? error), code: cause.code ?? error.code ?? null }
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`)
  }
  process.exit(0)
}

main()
