/*-------------------------------------------------------------------------
 *
 * similar.h
 *	  How much two names are alike.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_SIMILAR_H
#define REHOME_SIMILAR_H

#include "nodes/pg_list.h"

extern List *rehome_name_words(const char *name);
extern double rehome_words_alike(List *a, List *b);
extern List *rehome_words_without(List *a, List *b);

#endif							/* REHOME_SIMILAR_H */
