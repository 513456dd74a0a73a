/*
 * gearman's binary protocol: foreground jobs of the function "echo". A worker
 * answers and asks for the next job in one send; without one it sleeps.
 */
#include "load.h"

enum {
    CAN_DO = 1,
    PRE_SLEEP = 4,
    NOOP = 6,
    SUBMIT_JOB = 7,
    JOB_CREATED = 8,
    GRAB_JOB = 9,
    NO_JOB = 10,
    JOB_ASSIGN = 11,
    WORK_COMPLETE = 13,
};
enum { HEADER = 12 };

static void append_header(struct buffer *out, int type, size_t length) {
    char header[HEADER] = "\0REQ";
    put_uint32(header + 4, (size_t)type);
    put_uint32(header + 8, length);
    buffer_append(out, header, HEADER);
}

static void begin(struct connection *connection) {
    if (connection->role == MASTER) {
        is_ready(connection);
        return;
    }
    append_header(&connection->out, CAN_DO, 4);
    buffer_append(&connection->out, "echo", 4);
    append_header(&connection->out, GRAB_JOB, 0);
}

static void submit(struct master *master, uint64_t job) {
    struct buffer *out = &master->sends->out;
    char head[64];
    /* The function, what makes the job unique, the data. */
    int length = snprintf(head, sizeof head, "%s%c%d-%lu", master->is_filler ? "other" : "echo", 0, master->number, job);
    append_header(out, SUBMIT_JOB, (size_t)length + 1 + body_length);
    buffer_append(out, head, (size_t)length + 1);
    append_body(out, master, job);
}

/* Handles are H:<host>:<number>. */
static uint64_t handle_number(const struct connection *connection, const char *handle, size_t length) {
    const char *colon = memrchr(handle, ':', length);
    uint64_t number = 0;
    if (!starts_with(handle, length, "H:") || !colon)
        unexpected(connection, "is no job handle", handle, length);
    while (++colon < handle + length)
        number = number * 10 + (uint64_t)(*colon - '0');
    return number;
}

static const char *after_zero(const struct connection *connection, const char *data, const char *end) {
    const char *zero = memchr(data, 0, (size_t)(end - data));
    if (!zero)
        unexpected(connection, "lacks an argument", data, (size_t)(end - data));
    return zero + 1;
}

static void assigned(struct connection *slave, const char *data, const char *end) {
    const char *function = after_zero(slave, data, end), *body = after_zero(slave, function, end);
    size_t handle = (size_t)(function - data); /* with its zero */
    append_header(&slave->out, WORK_COMPLETE, handle + (size_t)(end - body));
    buffer_append(&slave->out, data, handle);
    buffer_append(&slave->out, body, (size_t)(end - body));
    append_header(&slave->out, GRAB_JOB, 0);
}

static void completed(struct connection *master, const char *data, const char *end) {
    const char *body = after_zero(master, data, end);
    uint64_t job = was_answered(master, body, (size_t)(end - body));
    if (master->master->names[job] != handle_number(master, data, (size_t)(body - 1 - data)))
        unexpected(master, "is the answer to another job", data, (size_t)(end - data));
}

static size_t read_message(struct connection *connection, const char *data, size_t length) {
    size_t size = length < HEADER ? 0 : HEADER + get_uint32(data + 8);
    const char *payload = data + HEADER, *end = data + size;
    if (size == 0 || length < size)
        return 0;
    if (memcmp(data, "\0RES", 4))
        unexpected(connection, "is no response", data, size);
    switch (get_uint32(data + 4)) {
    case JOB_CREATED: {
        uint64_t job = was_accepted(connection);
        connection->master->names[job] = handle_number(connection, payload, (size_t)(end - payload));
        return size;
    }
    case WORK_COMPLETE:
        completed(connection, payload, end);
        return size;
    case JOB_ASSIGN:
        assigned(connection, payload, end);
        return size;
    case NO_JOB:
        append_header(&connection->out, PRE_SLEEP, 0);
        if (!connection->ready)
            is_ready(connection);
        return size;
    case NOOP:
        append_header(&connection->out, GRAB_JOB, 0);
        return size;
    default:
        unexpected(connection, "is no packet that was expected", data, size);
    }
}

const struct wire gearman_wire = {"gearman", false, true, begin, submit, read_message};
