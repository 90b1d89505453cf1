/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reads the messages of a file, each behind its size, as requests and as responses: for sanitizers. usage: heads FILE */
#include <stdio.h>
#include "../src/http.c"

int main(int count, char **arguments)
{
	FILE *file = count > 1 ? fopen(arguments[1], "r") : 0;
	if (!file)
		return 1;
	__u32 size, messages = 0;
	struct host_head head;
	while (fread(&size, sizeof(size), 1, file) == 1) {
		__u8 *message = malloc(size + 1);
		if (!message || fread(message, 1, size, file) != size)
			return 1;
		host_http_read(message, size, (const __u8 *)"\xff\0\r\n", 4, -1, &head);
		for (int method = 0; method < HTTP_METHODS; method++)
			host_http_read(message, size, (const __u8 *)"\xff\0\r\n", 4, method, &head);
		free(message);
		messages++;
	}
	fclose(file);
	printf("%u\n", messages);
	return 0;
}
