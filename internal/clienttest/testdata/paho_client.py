"""One MQTT client of Eclipse Paho for Python; see clienttest.go for what it is asked and what it answers."""
import sys
import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

verb, host, port, version, qos, device, password, topic = sys.argv[1:9]
v5, qos = version == "5", int(qos)


def say(*words):
    print(*words, flush=True)


def code_of(rc):
    return rc.value if hasattr(rc, "value") else int(rc)


if v5:
    c = mqtt.Client(client_id=device, protocol=mqtt.MQTTv5)
else:
    c = mqtt.Client(client_id=device, protocol=mqtt.MQTTv311, clean_session=False)
if password:
    c.username_pw_set(device, password)
c.reconnect_delay_set(min_delay=1, max_delay=1)

connected, done = threading.Event(), threading.Event()
waiting = threading.Semaphore(5)



def on_connect(client, userdata, flags, rc, properties=None):
    if code_of(rc) == 0:
        connected.set()
    elif verb == "refused":
        say("code", code_of(rc))
        done.set()


def on_publish(client, userdata, mid):
    say("acked")
    waiting.release()


def on_message(client, userdata, m):
    say("got", m.payload.decode())
    done.set()


def on_disconnect(client, userdata, rc, properties=None):
    connected.clear()
    if verb == "refused":
        say("code", -1)
        done.set()


def on_subscribe(client, userdata, mid, granted, properties=None):
    say("subscribed")
    done.set()


c.on_connect, c.on_publish, c.on_message = on_connect, on_publish, on_message
c.on_disconnect, c.on_subscribe = on_disconnect, on_subscribe
if verb == "refused" and v5:
    # This version of the library hides the reason code of a PUBACK behind its log.
    original = c._handle_pubackcomp

    def puback(cmd):
        packet = bytes(c._in_packet["packet"])
        say("code", packet[2] if len(packet) > 2 else 0)
        rc = original(cmd)
        done.set()
        return rc

    c._handle_pubackcomp = puback
elif verb == "refused":
    c.on_publish = lambda client, userdata, mid: (say("code", 0), done.set())

while True:
    try:
        if v5:
            p = Properties(PacketTypes.CONNECT)
            p.SessionExpiryInterval = 3600
            c.connect(host, int(port), clean_start=False, properties=p)
        else:
            c.connect(host, int(port))
        break
    except ConnectionError:  # the library comes back by itself only after the first time
        time.sleep(0.1)
c.loop_start()
if verb == "publish":
    connected.wait()
    if qos == 0:  # given to the library is sent: it says nothing of a message that goes down with its connection
        c.on_publish = None
    for line in sys.stdin.read().split("\n"):
        if qos == 0:
            connected.wait()
        else:
            waiting.acquire()
        c.publish(topic, line, qos)
        if qos == 0:
            say("acked")
        time.sleep(0.01)
    if qos == 0:
        time.sleep(0.2)
    else:
        for _ in range(5):  # all acknowledged
            waiting.acquire()
elif verb == "subscribe":
    connected.wait()
    c.subscribe(topic, 1)
    done.wait()
elif verb == "await":
    done.wait()
    time.sleep(0.1)  # the PUBACK goes out
elif verb == "refused":
    if topic:
        connected.wait()
        c.publish(topic, sys.stdin.read(), 1)
    done.wait()
c.disconnect()
c.loop_stop()
