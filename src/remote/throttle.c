/*-------------------------------------------------------------------------
 *
 * throttle.c
 *	  Sparing the source.
 *
 * Two things hold us back.  rehome.max_rate limits the bytes read in a second
 * while they are read: whoever is ahead of it sleeps, and the source, whose
 * output nobody takes, with it.  rehome.max_replica_lag and
 * rehome.max_source_backends are looked at between two pieces of work: while
 * the source is busier than they allow, none is begun.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "guc.h"
#include "remote/throttle.h"
#include "util/wait.h"
#include "utils/timestamp.h"

int			rehome_throttle_sharers = 1;

/* Reading at the permitted rate, the bytes of this process are due then. */
static TimestampTz due = 0;

/*
 * rehome_throttle_bytes is told of so many bytes that have been read, and
 * returns when they may have been.
 */
void
rehome_throttle_bytes(int64 bytes)
{
	TimestampTz now;
	double		rate;

	if (rehome_max_rate == 0)
		return;
	now = GetCurrentTimestamp();
	rate = rehome_max_rate * 1024.0 / rehome_throttle_sharers;
	/* what was not used is not saved up, but for the time of one wait */
	if (due < now - 100 * 1000)
		due = now - 100 * 1000;
	due += (TimestampTz) (bytes / rate * 1000000.0);
	if (due > now)
		rehome_pause_for((due - now) / 1000);
}

/*
 * rehome_throttle_reason asks the source how busy it is, and returns why no
 * piece of work should be begun now; NULL when one may.  What the connecting
 * role may not see (it takes pg_read_all_stats) counts as idle.
 */
char *
rehome_throttle_reason(RehomeConn *conn)
{
	RehomeRows *rows;

	if (rehome_max_replica_lag == 0 && rehome_max_source_backends == 0)
		return NULL;
	rows = rehome_conn_query(conn,
							 "SELECT (SELECT format('replica %s of the source is %s behind', application_name,"
							 "   pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)))"
							 "  FROM pg_stat_replication"
							 "  WHERE $1::bigint > 0 AND pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) > $1::bigint * 1024"
							 "  ORDER BY replay_lsn LIMIT 1),"
							 " (SELECT format('%s sessions are active at the source', count(*))"
							 "  FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
							 "  AND application_name NOT LIKE 'pg\\_rehome %'"
							 "  HAVING $2::int > 0 AND count(*) > $2::int)"
							 " FROM pg_stat_clear_snapshot()", "ii",
							 rehome_max_replica_lag, rehome_max_source_backends);
	return rows->value[0][0] ? rows->value[0][0] : rows->value[0][1];
}
