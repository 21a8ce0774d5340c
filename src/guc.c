/*-------------------------------------------------------------------------
 *
 * guc.c
 *	  The settings of pg_rehome, in alphabetical order.
 *
 * Everything is USERSET or SIGHUP, but for the debug point, with which a
 * superuser parks or breaks a session at a named place in the tests.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "guc.h"
#include "utils/guc.h"

int			rehome_check_timeout = 60000;
int			rehome_chunk_size = 16384;
int			rehome_chunk_time = 2000;
int			rehome_copy_workers = 2;
int			rehome_cutover_backlog = 2000;
char	   *rehome_databases = NULL;
char	   *rehome_debug_point_setting = NULL;
int			rehome_freeze_timeout = 5000;
int			rehome_keep_indexes_below = 512;
int			rehome_launcher_naptime = 5000;
int			rehome_lock_retries = 10;
int			rehome_lock_timeout = 500;
int			rehome_maintenance_work_mem = 196608;
int			rehome_max_discrepancies = 1000;
int			rehome_max_rate = 0;
int			rehome_max_replica_lag = 0;
int			rehome_max_source_backends = 0;
int			rehome_max_touched_keys = 1000000;
int			rehome_naptime = 100;
int			rehome_retry_max = 30000;
int			rehome_verify_part_rows = 10000000;

/*
 * rehome_guc_init defines every setting and reserves the prefix.
 */
void
rehome_guc_init(void)
{
	DefineCustomIntVariable("rehome.check_timeout",
							"Longest time a query of a check, or one run on both sides, may take on one side.",
							"0: no limit.",
							&rehome_check_timeout, 60000, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("rehome.chunk_size",
							"Size of the parts in which a source table is copied.",
							NULL,
							&rehome_chunk_size, 16384, 64, INT_MAX / 2,
							PGC_USERSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("rehome.chunk_time",
							"Time after which a copy worker commits the chunks it has copied.",
							"So much work at most is lost when it dies; 0 commits every chunk.",
							&rehome_chunk_time, 2000, 0, 3600000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("rehome.copy_workers",
							"Background workers that copy one slice; 0 copies in the calling session.",
							NULL,
							&rehome_copy_workers, 2, 0, 64,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("rehome.cutover_backlog",
							"Rows of one batch below which cutover and rollback stop draining and freeze.",
							NULL,
							&rehome_cutover_backlog, 2000, 0, INT_MAX,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("rehome.databases",
							   "Databases whose sync workers the launcher keeps running.",
							   "Comma-separated names; needs shared_preload_libraries.",
							   &rehome_databases, "",
							   PGC_SIGHUP, GUC_LIST_INPUT, NULL, NULL, NULL);
	DefineCustomStringVariable("rehome.debug_point",
							   "For tests: what happens where, as point:action.",
							   "Actions are error, exit, crash and wait.",
							   &rehome_debug_point_setting, "",
							   PGC_SUSET, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
	DefineCustomIntVariable("rehome.freeze_timeout",
							"Longest time cutover or rollback may keep writers waiting.",
							NULL,
							&rehome_freeze_timeout, 5000, 10, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("rehome.keep_indexes_below",
							"Tables that are smaller at the source are loaded with their indexes in place.",
							NULL,
							&rehome_keep_indexes_below, 512, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("rehome.launcher_naptime",
							"How often the launcher looks for sync workers to start.",
							NULL,
							&rehome_launcher_naptime, 5000, 100, 3600000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("rehome.lock_retries",
							"How often a lock that could not be had in time is tried again.",
							NULL,
							&rehome_lock_retries, 10, 0, 10000,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("rehome.lock_timeout",
							"Longest time a lock request may queue on a source or target table.",
							NULL,
							&rehome_lock_timeout, 500, 1, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("rehome.maintenance_work_mem",
							"Memory a copy worker may use to build an index; in place of maintenance_work_mem.",
							NULL,
							&rehome_maintenance_work_mem, 196608, 1024, MAX_KILOBYTES,
							PGC_USERSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("rehome.max_discrepancies",
							"Differing rows a verification records for one table; all are counted.",
							NULL,
							&rehome_max_discrepancies, 1000, 0, INT_MAX,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("rehome.max_rate",
							"Data a slice reads from its source in a second; 0 is no limit.",
							NULL,
							&rehome_max_rate, 0, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("rehome.max_replica_lag",
							"No work is begun while a replica of the source is further behind; 0 is no limit.",
							"The connecting role needs pg_read_all_stats to see it.",
							&rehome_max_replica_lag, 0, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("rehome.max_source_backends",
							"No work is begun while more sessions than that are active at the source; 0 is no limit.",
							"The connecting role needs pg_read_all_stats to see them.",
							&rehome_max_source_backends, 0, 0, INT_MAX,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("rehome.max_touched_keys",
							"Changed rows of a table, since it was last verified, that an incremental verification can look at.",
							"Beyond that it compares all rows; 0 writes no keys down.",
							&rehome_max_touched_keys, 1000000, 0, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("rehome.naptime",
							"Pause of a sync worker after a batch of few rows, or of none.",
							NULL,
							&rehome_naptime, 100, 1, 3600000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("rehome.retry_max",
							"Longest back-off of a sync worker after an error.",
							NULL,
							&rehome_retry_max, 30000, 100, 3600000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("rehome.verify_part_rows",
							"Rows of a table that verify_tables() compares in one transaction.",
							"Of tables whose key is one integer; 0 compares each table as a whole.",
							&rehome_verify_part_rows, 10000000, 0, INT_MAX,
							PGC_USERSET, 0, NULL, NULL, NULL);

	MarkGUCPrefixReserved("rehome");
}
