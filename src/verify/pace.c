/*-------------------------------------------------------------------------
 *
 * pace.c
 *	  How fast a verification goes, and how far it is.
 *
 * A verification is one transaction, so nothing it writes could tell others
 * how far it is: it reports to the server's statistics of running commands, as
 * a COPY out of the target, with what else rehome.progress shows in slots that
 * COPY does not use (30_views.sql).  The streams it reads report there too,
 * and end it; so everything is reported again at each step.  The end of the
 * transaction, however it ends, takes it away.
 *
 * Between two pieces of work, tables or parts of the touched keys, it waits
 * while the source is busier than the settings allow (remote/throttle.c); the
 * snapshots on both sides are held meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/progress.h"
#include "remote/throttle.h"
#include "util/debug_point.h"
#include "util/wait.h"
#include "utils/backend_progress.h"
#include "utils/timestamp.h"
#include "verify/pace.h"

/* Slots of the report that COPY leaves free; the view counts from one. */
enum
{
	SLOT_STARTED = 14,
	SLOT_HELD,
	SLOT_ROWS,
	SLOT_ROWS_TOTAL,
	SLOT_TABLES,
	SLOT_TABLES_TOTAL
};

/* How far the verification of this process is. */
static struct
{
	Oid			target;			/* being compared */
	int64		started;
	int64		held;			/* it waits for the source */
	int64		rows;			/* compared */
	int64		rows_total;		/* estimated */
	int64		tables;			/* compared */
	int64		tables_total;
}			pace;

static void
report(void)
{
	int			slots[] = {PROGRESS_COPY_COMMAND, PROGRESS_COPY_TYPE, PROGRESS_COPY_TUPLES_PROCESSED,
		SLOT_STARTED, SLOT_HELD, SLOT_ROWS, SLOT_ROWS_TOTAL, SLOT_TABLES, SLOT_TABLES_TOTAL};
	int64		values[] = {PROGRESS_COPY_COMMAND_TO, PROGRESS_COPY_TYPE_CALLBACK, pace.rows,
	pace.started, pace.held, pace.rows, pace.rows_total, pace.tables, pace.tables_total};

	pgstat_progress_start_command(PROGRESS_COMMAND_COPY, pace.target);
	pgstat_progress_update_multi_param(lengthof(slots), slots, values);
}

/*
 * rehome_pace_begin begins the verification of so many tables, with about so
 * many rows.
 */
void
rehome_pace_begin(int tables, int64 rows)
{
	memset(&pace, 0, sizeof(pace));
	pace.started = GetCurrentTimestamp();
	pace.tables_total = tables;
	pace.rows_total = rows;
}

/*
 * rehome_pace_part waits until another piece of work may begin.  conn is NULL
 * for a source this server reads itself.
 */
void
rehome_pace_part(RehomeConn *conn)
{
	char	   *reason;

	while (conn != NULL && (reason = rehome_throttle_reason(conn)) != NULL)
	{
		if (!pace.held)
			ereport(NOTICE,
					errmsg("verification waits for the source: %s", reason));
		pace.held = true;
		report();
		rehome_pause_for(REHOME_THROTTLE_NAP);
	}
	pace.held = false;
	report();
	rehome_debug_point("verify-part");
}

/*
 * rehome_pace_table goes on to another table, when that may begin.
 */
void
rehome_pace_table(RehomeConn *conn, Oid target)
{
	if (OidIsValid(pace.target))
		pace.tables++;
	pace.target = target;
	rehome_pace_part(conn);
}

/*
 * rehome_pace_rows is told that so many more rows are compared.
 */
void
rehome_pace_rows(int64 rows)
{
	pace.rows += rows;
	report();
}

void
rehome_pace_end(void)
{
	pgstat_progress_end_command();
}
