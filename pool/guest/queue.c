/* A byte queue in one block, so that several frames leave in one write. */
#include <stdlib.h>
#include <string.h>

#include "guest.h"

#define KEPT_CAPACITY ((size_t)1 << 20) /* an empty queue larger than this gives its memory back */

size_t queue_size(const struct queue *queue)
{
	return queue->tail - queue->head;
}

/* Room for *size* bytes behind the tail, or NULL without memory. The caller moves the tail. */
unsigned char *queue_room(struct queue *queue, size_t size)
{
	size_t used = queue_size(queue);

	if (queue->capacity - queue->tail >= size)
		return queue->bytes + queue->tail;
	if (used > 0 && queue->head > 0)
		memmove(queue->bytes, queue->bytes + queue->head, used);
	queue->head = 0;
	queue->tail = used;
	if (queue->capacity - used < size) {
		size_t capacity = used + size + (used + size) / 2; /* in proportion to what came, not what was announced */
		unsigned char *bytes = realloc(queue->bytes, capacity);

		if (bytes == NULL)
			return NULL;
		queue->bytes = bytes;
		queue->capacity = capacity;
		queue->swollen |= capacity > KEPT_CAPACITY;
	}
	return queue->bytes + queue->tail;
}

/* Whether it was large a while ago and is not any more; says so once. */
bool queue_shrank(struct queue *queue)
{
	bool shrank = queue->swollen && queue->capacity <= KEPT_CAPACITY;

	if (shrank)
		queue->swollen = false;
	return shrank;
}

void queue_drop(struct queue *queue, size_t size)
{
	queue->head += size;
	if (queue->head < queue->tail)
		return;
	queue->head = queue->tail = 0;
	if (queue->capacity > KEPT_CAPACITY) {
		free(queue->bytes);
		queue->bytes = NULL;
		queue->capacity = 0;
	}
}
