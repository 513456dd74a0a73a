/*
 * What the load generator and its wires know of each other.
 *
 * load.c has the connections, the clock and the counts; a wire knows how one
 * system says submit, job, answer. It reads with wire->read, and tells load.c
 * is_ready, was_accepted and was_answered.
 */
#ifndef LOAD_H
#define LOAD_H

#define _GNU_SOURCE
#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"

enum role {
    SLAVE,
    MASTER, /* sends jobs, and hears answers unless the wire has HEARS */
    HEARS,  /* the connection on which a master hears answers, where it needs a second one */
};

struct master {
    int number;
    struct connection *sends;
    uint64_t submitted, accepted;
    uint64_t *scheduled_ns; /* of each job; 0: answered */
    uint64_t *names;        /* what the system calls each job, if the wire needs it */
    bool is_filler;         /* its jobs are of the type that nobody takes */
};

struct connection {
    enum role role;
    int descriptor, number;
    bool ready, waits_to_write;
    struct buffer in, out;
    struct master *master; /* NULL: a slave's */
    char text[32];         /* for the wire: what was selected on this connection */
    int step;              /* for the wire: how far it is in being ready */
};

struct wire {
    const char *name;
    bool has_hears;                        /* a master needs a connection of its own for answers */
    bool can_fill;                         /* jobs may be of a type that nobody takes */
    void (*begin)(struct connection *);    /* say what comes first */
    void (*submit)(struct master *, uint64_t job);
    /* Take one message from data[:length]; return its length, or 0 if it is not whole yet. */
    size_t (*read)(struct connection *, const char *data, size_t length);
};

extern const struct wire gloom_wire, gearman_wire, beanstalkd_wire, nats_wire;
extern int slots;      /* jobs that a slave of gloom may have in hand */
extern int window;     /* jobs in flight a master */
extern size_t body_length;

void is_ready(struct connection *);
/* The system has accepted the oldest submission of this master that it had not: return its number. */
uint64_t was_accepted(struct connection *);
/* An answer has come. Returns the number of the job, of which it was checked that it waits for one. */
uint64_t was_answered(struct connection *, const char *body, size_t length);

/* The body of a job: a JSON string that names the job and is filled up with x. */
void append_body(struct buffer *, const struct master *, uint64_t job);
void append_format(struct buffer *, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* End with status 1 and one line: what was wrong, and the beginning of the bytes that were. */
void __attribute__((noreturn)) unexpected(const struct connection *, const char *what, const char *data, size_t length);
/* The offset behind the next \r\n, or 0. */
size_t line_length(const char *data, size_t length);
/* The line as a string, until the next call. */
const char *line_text(const char *data, size_t length);
bool starts_with(const char *data, size_t length, const char *text);

#endif
