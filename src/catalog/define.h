/*-------------------------------------------------------------------------
 *
 * define.h
 *	  Checking and storing definitions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_DEFINE_H
#define REHOME_DEFINE_H

#include "catalog/migration.h"
#include "util/problems.h"
#include "util/spi.h"
#include "utils/rel.h"

extern void rehome_define_migration(RehomeCall *call, FunctionCallInfo fcinfo, const char *name,
									const char *server, const char *reason, const char *home);
extern char *rehome_define_import(RehomeMigration *migration, const char *schema, List *wanted);
extern int	rehome_define_table(RehomeCall *call, RehomeSlice *slice, Oid source, Oid target,
								List *key, const char *filter, RehomeRows *columns,
								bool imported);
extern void rehome_define_tables(RehomeCall *call, RehomeSlice *slice, List *sources, List *targets,
								 bool imported, RehomeProblems *problems);
extern void rehome_define_check_key(Relation target, List *key, RehomeProblems *problems);
extern RehomeTableMap *rehome_define_open(RehomeCall *call, const char *name, Oid target,
										  RehomeSlice **slice);
extern void rehome_define_may_change(RehomeSlice *slice, RehomeTableMap *map, const char *column);
extern void rehome_define_policy(RehomeMigration *migration, RehomeTableMap *map, const char *column,
								 const char *on_error);
extern void rehome_define_table_rule(RehomeMigration *migration, RehomeTableMap *map, const char *on_error,
									 const char *on_delete, const char *delete_column, Oid archive);
extern char *rehome_required_name(FunctionCallInfo fcinfo, int n, const char *what);
extern Oid	rehome_required_relation(FunctionCallInfo fcinfo, int n, const char *what);
extern void rehome_define_column(RehomeCall *call, RehomeMigration *migration,
								 RehomeTableMap *map, const char *column, char *expression,
								 char *inverse, char *inverse_column, const char *note);

#endif							/* REHOME_DEFINE_H */
