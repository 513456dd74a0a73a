/* gloom's wire, docs/protocol.md; the relay's too. */
#include "load.h"

static const char *after(const char *data, size_t length, const char *key) {
    const char *found = memmem(data, length, key, strlen(key));
    return found ? found + strlen(key) : NULL;
}

static void append_frame(struct buffer *out, const char *text) {
    put_uint32(buffer_room(out, 4), strlen(text));
    out->end += 4;
    buffer_append_text(out, text);
}

static void begin(struct connection *connection) {
    char join[64];
    if (connection->role == MASTER) {
        is_ready(connection);
        return;
    }
    if (slots > 1)
        append_frame(&connection->out, "{\"action\":\"hello\",\"version\":1}");
    connection->step = slots > 1 ? 2 : 1; /* replies until it has joined */
    snprintf(join, sizeof join, slots > 1 ? "{\"action\":\"join\",\"type\":\"echo\",\"slots\":%d}"
                                          : "{\"action\":\"join\",\"type\":\"echo\"}", slots);
    append_frame(&connection->out, join);
}

static void submit(struct master *master, uint64_t job) {
    struct buffer *out = &master->sends->out;
    char head[96];
    size_t length = (size_t)snprintf(head, sizeof head, "{\"action\":\"submit\",\"id\":\"%d-%lu\",\"type\":\"%s\",\"body\":",
                                     master->number, job, master->is_filler ? "other" : "echo");
    put_uint32(buffer_room(out, 4), length + body_length + 1);
    out->end += 4;
    buffer_append(out, head, length);
    append_body(out, master, job);
    buffer_append(out, "}", 1);
}

static void answer(struct connection *slave, const char *data, size_t length) {
    struct buffer *out = &slave->out;
    char head[96];
    const char *body = after(data, length, "\"body\":"), *id = after(data, length, "\"id\":");
    const char *id_end = id ? memchr(id + 1, '"', data + length - id - 1) : NULL;
    size_t size;
    if (!body || !id_end)
        unexpected(slave, "is no job", data, length);
    if (slots > 1)
        size = (size_t)snprintf(head, sizeof head, "{\"action\":\"respond\",\"id\":%.*s,\"body\":", (int)(id_end + 1 - id), id);
    else
        size = (size_t)snprintf(head, sizeof head, "{\"action\":\"respond\",\"body\":");
    put_uint32(buffer_room(out, 4), size + (data + length - body));
    out->end += 4;
    buffer_append(out, head, size);
    buffer_append(out, body, data + length - body); /* with the closing brace */
}

static void outcome(struct connection *master, const char *data, size_t length) {
    char id[64];
    const char *body = after(data, length, "\"body\":");
    uint64_t job;
    if (!starts_with(data, length, "{\"id\":") || !body)
        unexpected(master, "is no answer", data, length);
    job = was_answered(master, body, data + length - 1 - body);
    if (!starts_with(data + 6, length - 6, (snprintf(id, sizeof id, "\"%d-%lu\",", master->master->number, job), id)))
        unexpected(master, "is the answer to another job", data, length);
}

static size_t read_message(struct connection *connection, const char *data, size_t length) {
    size_t size = length < 4 ? 0 : 4 + get_uint32(data);
    if (size == 0 || length < size)
        return 0;
    data += 4;
    length = size - 4;
    if (starts_with(data, length, "{\"ok\":true")) {
        if (connection->role == MASTER)
            was_accepted(connection);
        else if (connection->step > 0 && --connection->step == 0)
            is_ready(connection);
    } else if (connection->role == MASTER)
        outcome(connection, data, length);
    else if (starts_with(data, length, "{\"action\":\"job\""))
        answer(connection, data, length);
    else
        unexpected(connection, "is neither ok nor a job", data, length);
    return size;
}

const struct wire gloom_wire = {"gloom", false, true, begin, submit, read_message};
