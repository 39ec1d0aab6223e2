/* What a persistent shell is given to read. It must be plain POSIX: dash, bash and busybox all read it from their
 * standard input, a pipe, a command at a time.
 *
 * The text of a command is the quoted argument of one eval, so that it cannot end early or swallow what follows; "command"
 * keeps a syntax error in it from ending the shell. It has an empty standard input instead of the script, and not the
 * descriptor for reports. The report follows as a command of its own. Backslashes pass over aliases; functions by the names
 * that are needed here are removed, which is what is left of the state that a command cannot keep. */
#include <stdlib.h>
#include <string.h>

#include "guest.h"

static const char prelude[] =
    "__codecraft_report() {\n"
    "__codecraft_status=$?\n"
    "\\unset -f command eval printf unset\n"
    "case ${__codecraft_interrupted-} in ?*) __codecraft_status=130; unset __codecraft_interrupted;; esac\n"
    "\\command \\printf ' %s %s\\n' \"$1\" \"$__codecraft_status\" >&9\n"
    "return \"$__codecraft_status\"\n"
    "}\n"
    /* SIGINT must end the command but not the shell. In most shells an arithmetic error in a trap unwinds to the nearest
     * "command"; in bash it does not, but a DEBUG trap can have it skip whatever is left. */
    "case ${BASH_VERSION-} in\n"
    "'') trap '__codecraft_interrupted=1; { : $((1/0)); } 2>/dev/null' INT;;\n"
    "*) trap '__codecraft_interrupted=1; shopt -s extdebug; trap \"case \\$BASH_COMMAND in"
    " *__codecraft_report*) trap - DEBUG; shopt -u extdebug;; *) break 9999 2>/dev/null; ! :;; esac\" DEBUG;"
    " break 9999 2>/dev/null' INT;;\n"
    "esac\n";

static const char head[] = "\\command \\eval '";
static const char tail[] = "' </dev/null 9>&-\n";
static const char report[] = "\\__codecraft_report ";
static const char quote[] = "'\\''";

struct bytes shell_prelude(void)
{
	return (struct bytes){.at = (const unsigned char *)prelude, .size = sizeof prelude - 1};
}

static unsigned char *add(unsigned char *at, const char *bytes, size_t size)
{
	memcpy(at, bytes, size);
	return at + size;
}

/* The size of what was made for one command, which the caller frees; 0 for lack of memory. */
size_t shell_text(const struct bytes *text, struct shell *shell, unsigned char **made)
{
	size_t quotes = 0, token_size = strlen(shell->token), size;
	unsigned char *at;

	for (size_t i = 0; i < text->size; i++)
		quotes += text->at[i] == '\'';
	size = sizeof head - 1 + text->size + quotes * (sizeof quote - 2) + sizeof tail - 1;
	shell->report_size = sizeof report - 1 + token_size + 1;
	size += shell->report_size;
	at = *made = malloc(size);
	if (at == NULL)
		return 0;
	at = add(at, head, sizeof head - 1);
	for (size_t i = 0; i < text->size; i++) {
		if (text->at[i] == '\'')
			at = add(at, quote, sizeof quote - 1);
		else
			*at++ = text->at[i];
	}
	at = add(at, tail, sizeof tail - 1);
	at = add(at, report, sizeof report - 1);
	at = add(at, shell->token, token_size);
	*at = '\n';
	return size;
}
