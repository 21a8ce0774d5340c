/*-------------------------------------------------------------------------
 *
 * guc.h
 *	  Settings of pg_rehome.  Times are in milliseconds, sizes in kilobytes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_GUC_H
#define REHOME_GUC_H

extern int	rehome_check_timeout;
extern int	rehome_chunk_size;
extern int	rehome_chunk_time;
extern int	rehome_copy_workers;
extern int	rehome_cutover_backlog;
extern char *rehome_databases;
extern char *rehome_debug_point_setting;
extern int	rehome_freeze_timeout;
extern int	rehome_keep_indexes_below;
extern int	rehome_launcher_naptime;
extern int	rehome_lock_retries;
extern int	rehome_lock_timeout;
extern int	rehome_maintenance_work_mem;
extern int	rehome_max_discrepancies;
extern int	rehome_max_rate;
extern int	rehome_max_replica_lag;
extern int	rehome_max_source_backends;
extern int	rehome_max_touched_keys;
extern int	rehome_naptime;
extern int	rehome_retry_max;
extern int	rehome_verify_part_rows;

extern void rehome_guc_init(void);

#endif							/* REHOME_GUC_H */
