/*-------------------------------------------------------------------------
 *
 * derive.h
 *	  Tables and columns of the target that are made from others of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_DERIVE_H
#define REHOME_DERIVE_H

#include "catalog/migration.h"
#include "mapping/mapping.h"
#include "nodes/execnodes.h"
#include "util/problems.h"
#include "util/stated.h"
#include "utils/tuplestore.h"

typedef struct RehomeDerivation
{
	int			id;
	char	   *name;
	Oid			target;
	bool		whole;			/* makes rows; else columns of rows that are there */
	List	   *key;			/* char *, target columns */
	List	   *columns;		/* char *, the others that the query gives */
	char	   *query;
	char	   *write_back;		/* function, or NULL */
	bool		by_key;			/* each input tells which keys its changes touch */
	bool		derived;		/* at least once */
	List	   *inputs;			/* Oid */
	RehomeStated stated;
} RehomeDerivation;

/* derive.c */
extern List *rehome_derivations_get(RehomeSlice *slice);
extern RehomeMapping *rehome_derivation_mapping(RehomeDerivation *derivation);
extern char *rehome_derivation_sql(RehomeDerivation *derivation, RehomeMapping *mapping, bool by_key);
extern char *rehome_derivation_type(Oid type, int32 typmod);
extern int64 rehome_store_query(const RehomeStated *stated, const char *sql, TupleDesc desc, Tuplestorestate *store);
extern void rehome_derive(RehomeSlice *slice, bool all);
extern void rehome_derive_again(RehomeSlice *slice);
extern void rehome_derive_gates(RehomeSlice *slice, bool frozen, RehomeProblems *problems);

/* install.c */
extern int	rehome_deriving;
extern List *rehome_derivation_maps(RehomeDerivation *derivation);
extern List *rehome_derived_targets(RehomeSlice *slice);
extern List *rehome_derived_maps(RehomeSlice *slice);
extern void rehome_derivation_install(RehomeSlice *slice, RehomeDerivation *derivation);
extern void rehome_derivation_remove(RehomeDerivation *derivation);
extern void rehome_derived_switch(RehomeSlice *slice, bool guard, bool write_back);
extern void rehome_derived_remove(RehomeSlice *slice);
extern bool rehome_notes_missed(int derivation);

/* define_derived.c */
extern List *rehome_names_argument(FunctionCallInfo fcinfo, int n, const char *what);
extern void rehome_define_derived(RehomeMigration *migration, RehomeDerivation *d, const char *slice_name,
								  const char *affected, Oid function, const char *note);
extern bool rehome_affected_reads(const RehomeStated *stated, Oid input, const char *affected);

/* compare_derived.c */
extern int	rehome_derived_slice(RehomeMigration *migration, Oid target);
extern void rehome_verify_derived(RehomeSlice *slice, Oid target, const char *snapshot, ReturnSetInfo *rsinfo,
								  int *ntables, int *failed, int64 *nrows, int64 *wrong);

#endif							/* REHOME_DERIVE_H */
