/*-------------------------------------------------------------------------
 *
 * problems.c
 *	  Collecting everything that is wrong before raising it in one error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "util/problems.h"
#include "utils/memutils.h"

void
rehome_problems_init(RehomeProblems *problems)
{
	memset(problems, 0, sizeof(*problems));
	initStringInfo(&problems->text);
}

/*
 * rehome_problem adds one; hint may be NULL.  It is kept where problems was
 * made, and the caller's memory may go.
 */
void
rehome_problem(RehomeProblems *problems, int sqlstate, const char *hint,
			   const char *fmt,...)
{
	va_list		args;
	int			needed;

	if (problems->n++ == 0)
		problems->sqlstate = sqlstate;
	if (problems->hint == NULL && hint != NULL)
		problems->hint = MemoryContextStrdup(GetMemoryChunkContext(problems->text.data), hint);
	if (problems->text.len > 0)
		appendStringInfoChar(&problems->text, '\n');
	do
	{
		va_start(args, fmt);
		needed = appendStringInfoVA(&problems->text, fmt, args);
		va_end(args);
		if (needed > 0)
			enlargeStringInfo(&problems->text, needed);
	} while (needed > 0);
}

/*
 * rehome_problems_raise raises an error with the message given, all problems
 * as its detail and the first one's SQLSTATE; nothing when there are none.
 */
void
rehome_problems_raise(RehomeProblems *problems, const char *fmt,...)
{
	va_list		args;
	StringInfoData message;
	int			needed;

	if (problems->n == 0)
		return;
	initStringInfo(&message);
	do
	{
		va_start(args, fmt);
		needed = appendStringInfoVA(&message, fmt, args);
		va_end(args);
		if (needed > 0)
			enlargeStringInfo(&message, needed);
	} while (needed > 0);
	ereport(ERROR,
			errcode(problems->sqlstate),
			errmsg_internal("%s", message.data),
			errdetail_internal("%s", problems->text.data),
			problems->hint ? errhint("%s", problems->hint) : 0);
}
