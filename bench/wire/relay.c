/*
 * The limit: the least that a broker of this wire can do.
 *
 *     relay [MASTER_PORT SLAVE_PORT]        0, the default, lets the system choose
 *
 * It reads frames, queues jobs first in, first out, gives a slave one at a time
 * and sends its answer to the master that asked. What it leaves out is what a
 * broker is for: it checks nothing, reads no JSON (it looks for the keys, and
 * believes that an id has no escapes), knows neither types nor priorities, and
 * forgets the job of a slave that goes. So it shows what sockets cost, and no more.
 * With bodies of a megabyte it is no limit: it copies each of them three times.
 *
 * As in gloom, what one turn of epoll has for a peer leaves in one send.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <malloc.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "buffer.h"

enum { CHUNK = 1 << 16 };
enum role { LISTENS_FOR_MASTERS, LISTENS_FOR_SLAVES, MASTER, SLAVE };

struct job {
    struct job *next;
    struct peer *master;
    char *id; /* within frame */
    size_t id_length, length;
    char frame[]; /* what the slave is sent */
};

struct peer {
    enum role role;
    int descriptor;
    bool closed, is_dirty, waits_to_write;
    struct buffer in, out;
    struct job *in_hand;
    struct peer *next_idle, *next_dirty;
};

static int epoll;
static struct job *first_job, *last_job;
static struct peer *first_idle, *last_idle, *dirty;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void say(struct peer *peer, const void *bytes, size_t length) {
    if (peer->closed)
        return;
    buffer_append(&peer->out, bytes, length);
    if (!peer->is_dirty) {
        peer->is_dirty = true;
        peer->next_dirty = dirty;
        dirty = peer;
    }
}

static void say_ok(struct peer *peer) { say(peer, "\0\0\0\013{\"ok\":true}", 15); }

static void give(struct peer *slave, struct job *job) {
    slave->in_hand = job;
    say(slave, job->frame, job->length);
}

static void is_idle(struct peer *slave) {
    struct job *job = first_job;
    if (job) {
        first_job = job->next;
        give(slave, job);
        return;
    }
    slave->next_idle = NULL;
    *(first_idle ? &last_idle->next_idle : &first_idle) = slave;
    last_idle = slave;
}

static void queue(struct job *job) {
    struct peer *slave = first_idle;
    while (slave && slave->closed)
        slave = slave->next_idle;
    first_idle = slave ? slave->next_idle : NULL;
    if (slave) {
        give(slave, job);
        return;
    }
    job->next = NULL;
    *(first_job ? &last_job->next : &first_job) = job;
    last_job = job;
}

/* Return what stands behind `key`, or exit. */
static const char *after(const char *from, const char *end, const char *key) {
    size_t length = strlen(key);
    const char *found = memmem(from, end - from, key, length);
    if (!found) {
        fprintf(stderr, "relay: no %s in a frame: %.*s\n", key, (int)(end - from < 200 ? end - from : 200), from);
        exit(1);
    }
    return found + length;
}

/* {"action":"submit","id":"...","type":"...","body":...}, in this order */
static void submit(struct peer *master, const char *frame, const char *end) {
    static const char head[] = "{\"action\":\"job\",\"id\":";
    const char *id = after(frame, end, "\"id\":");
    size_t rest = end - id, length = strlen(head) + rest;
    struct job *job = malloc(sizeof *job + 4 + length);
    if (!job)
        die("malloc");
    /* From the id on, the slave is sent what the master has sent: id, type and body. */
    put_uint32(job->frame, length);
    memcpy(job->frame + 4, head, strlen(head));
    job->id = job->frame + 4 + strlen(head);
    memcpy(job->id, id, rest);
    job->id_length = (const char *)memchr(id + 1, '"', rest - 1) + 1 - id;
    job->length = 4 + length;
    job->master = master;
    say_ok(master);
    queue(job);
}

/* {"action":"respond","body":...} */
static void respond(struct peer *slave, const char *frame, const char *end) {
    struct job *job = slave->in_hand;
    const char *body = after(frame, end, "\"body\":");
    char header[4];
    if (!job) {
        fputs("relay: an answer without a job\n", stderr);
        exit(1);
    }
    say_ok(slave);
    put_uint32(header, 6 + job->id_length + 8 + (end - body)); /* body has the closing brace */
    say(job->master, header, 4);
    say(job->master, "{\"id\":", 6);
    say(job->master, job->id, job->id_length);
    say(job->master, ",\"body\":", 8);
    say(job->master, body, end - body);
    slave->in_hand = NULL;
    free(job);
    is_idle(slave);
}

static void frame_received(struct peer *peer, const char *frame, const char *end) {
    const char *verb = after(frame, end, "\"action\":\"");
    if (peer->role == MASTER)
        submit(peer, verb, end);
    else if (*verb == 'r')
        respond(peer, verb, end);
    else { /* join */
        say_ok(peer);
        is_idle(peer);
    }
}

/* Its structure stays: jobs may point to it. */
static void has_gone(struct peer *peer) {
    peer->closed = true;
    close(peer->descriptor);
}

/* What is left of a large frame is read in one piece, if it has come. */
static size_t room_wanted(const struct buffer *in) {
    size_t frame = buffer_length(in) < 4 ? 0 : 4 + get_uint32(in->data + in->start);
    return frame > buffer_length(in) + CHUNK ? frame - buffer_length(in) : CHUNK;
}

static void readable(struct peer *peer) {
    struct buffer *in = &peer->in;
    size_t most = room_wanted(in);
    ssize_t count = recv(peer->descriptor, buffer_room(in, most), most, 0);
    if (count <= 0) {
        if (count == 0 || errno != EAGAIN)
            has_gone(peer);
        return;
    }
    in->end += count;
    while (buffer_length(in) >= 4) {
        const char *frame = in->data + in->start + 4;
        size_t length = get_uint32(frame - 4);
        if (buffer_length(in) < 4 + length)
            break;
        frame_received(peer, frame, frame + length);
        in->start += 4 + length;
    }
}

static void watch(struct peer *peer, int verb, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = peer};
    if (epoll_ctl(epoll, verb, peer->descriptor, &event))
        die("epoll_ctl");
}

static void flush(struct peer *peer) {
    ssize_t count = send(peer->descriptor, peer->out.data + peer->out.start, buffer_length(&peer->out), MSG_NOSIGNAL);
    if (count < 0 && errno != EAGAIN) {
        has_gone(peer);
        return;
    }
    peer->out.start += count > 0 ? count : 0;
    if (peer->waits_to_write != (buffer_length(&peer->out) > 0)) {
        peer->waits_to_write = !peer->waits_to_write;
        watch(peer, EPOLL_CTL_MOD, EPOLLIN | (peer->waits_to_write ? EPOLLOUT : 0));
    }
}

static struct peer *new_peer(enum role role, int descriptor) {
    struct peer *peer = calloc(1, sizeof *peer);
    if (!peer)
        die("calloc");
    peer->role = role;
    peer->descriptor = descriptor;
    watch(peer, EPOLL_CTL_ADD, EPOLLIN);
    return peer;
}

static void accept_from(struct peer *listener) {
    int yes = 1, descriptor = accept4(listener->descriptor, NULL, NULL, SOCK_NONBLOCK);
    if (descriptor < 0)
        die("accept");
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    new_peer(listener->role == LISTENS_FOR_MASTERS ? MASTER : SLAVE, descriptor);
}

static void listen_on(enum role role, const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int yes = 1, descriptor = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_port = htons((uint16_t)atoi(port));
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(descriptor, (struct sockaddr *)&address, size) || listen(descriptor, 1024) ||
        getsockname(descriptor, (struct sockaddr *)&address, &size))
        die(port);
    new_peer(role, descriptor);
    printf("%s on 127.0.0.1:%d\n", role == LISTENS_FOR_MASTERS ? "masters" : "slaves", ntohs(address.sin_port));
    fflush(stdout);
}

int main(int count, char **arguments) {
    /* Memory of large jobs is kept, and not taken from the kernel page by page each time. */
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    epoll = epoll_create1(0);
    listen_on(LISTENS_FOR_MASTERS, count > 2 ? arguments[1] : "0");
    listen_on(LISTENS_FOR_SLAVES, count > 2 ? arguments[2] : "0");
    for (;;) {
        struct epoll_event events[256];
        int ready = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            struct peer *peer = events[i].data.ptr;
            if (peer->role == LISTENS_FOR_MASTERS || peer->role == LISTENS_FOR_SLAVES)
                accept_from(peer);
            else if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                readable(peer);
            if (events[i].events & EPOLLOUT && !peer->closed)
                flush(peer);
        }
        while (dirty) {
            struct peer *peer = dirty;
            dirty = peer->next_dirty;
            peer->is_dirty = false;
            if (!peer->closed && !peer->waits_to_write)
                flush(peer);
        }
    }
}
