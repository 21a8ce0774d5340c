/*-------------------------------------------------------------------------
 *
 * position.c
 *	  Snapshot positions of this server.
 *
 * What a snapshot sees need not be on disk yet: with synchronous_commit off,
 * a transaction is visible before its commit record is flushed.  A crash
 * then loses it, and gives its id to another.  So before a position leaves
 * this server, everything it has seen is flushed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "compat.h"
#include "util/position.h"
#include "util/spi.h"
#include "utils/snapmgr.h"

/*
 * rehome_position_of_active returns the active snapshot as a position.  A
 * snapshot does not list its own transaction among those in progress, though
 * that may go on writing; a position has to.
 */
char *
rehome_position_of_active(void)
{
	FullTransactionId own = GetTopFullTransactionId();
	char	   *text = rehome_spi_read("SELECT pg_current_snapshot()", "")->value[0][0];

	return psprintf("%s%s" UINT64_FORMAT, text,
					text[strlen(text) - 1] == ':' ? "" : ",",
					U64FromFullTransactionId(own));
}

/*
 * rehome_position_now returns a position of this very moment.
 */
char *
rehome_position_now(void)
{
	char	   *position;

	PushActiveSnapshot(GetLatestSnapshot());
	position = rehome_position_of_active();
	PopActiveSnapshot();
	return position;
}

/*
 * rehome_position_flush flushes everything that a position taken before has
 * seen.
 */
void
rehome_position_flush(void)
{
	XLogFlush(rehome_log_mark());
}
