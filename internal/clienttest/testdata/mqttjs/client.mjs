// One MQTT.js client; see clienttest.go for what it is asked and what it answers.
import mqtt from 'mqtt'
import { readFileSync } from 'node:fs'

const [verb, host, port, version, qosText, device, password, topic] = process.argv.slice(2)
const qos = Number(qosText)
const say = (...words) => console.log(words.join(' '))
const client = mqtt.connect({
  host, port: Number(port), protocol: 'mqtt', protocolVersion: Number(version), clientId: device, clean: false,
  username: password ? device : undefined, password: password || undefined,
  reconnectPeriod: verb === 'refused' ? 0 : 200, resubscribe: false,
  properties: version === '5' ? { sessionExpiryInterval: 3600 } : undefined,
})
client.setMaxListeners(20)
const end = () => {
  client.end(false, {}, () => process.exit(0))
  setTimeout(() => process.exit(0), 5000) // everything has been answered; ending waits for a server that may be away
}
client.on('error', (err) => {
  if (verb === 'refused') {
    say('code', err.code ?? -1)
    process.exit(0)
  }
})
const input = () => readFileSync(0, 'utf8')

if (verb === 'publish') {
  const lines = input().split('\n')
  let next = 0
  let left = lines.length
  const one = () => {
    if (next === lines.length) return
    const line = lines[next++]
    let over = false
    const done = (err) => {
      if (over) return
      over = true
      client.off('close', lost)
      if (err) throw err
      say('acked')
      if (--left === 0) end()
      else setTimeout(one, 10)
    }
    // A QoS 0 message that goes down with its connection is over, and MQTT.js does not always call back.
    const lost = () => { if (qos === 0) done() }
    client.on('close', lost)
    client.publish(topic, line, { qos }, done)
  }
  client.once('connect', () => { for (let i = 0; i < 5; i++) one() })
} else if (verb === 'subscribe') {
  client.once('connect', () => client.subscribe(topic, { qos: 1 }, (err) => {
    if (err) throw err
    say('subscribed')
    end()
  }))
} else if (verb === 'await') {
  client.on('message', (_, payload) => {
    say('got', payload.toString())
    setTimeout(end, 100) // the PUBACK goes out
  })
} else if (verb === 'refused' && topic) {
  client.on('close', () => { say('code', -1); process.exit(0) })
  client.once('connect', () => client.publish(topic, input(), { qos: 1 }, (err) => {
    say('code', err ? err.code : 0)
    process.exit(0)
  }))
}
